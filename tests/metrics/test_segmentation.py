import math

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from depth_anything_train.metrics.segmentation import best_constant_miou, class_ious, confusion_of, measures


def test_measures__equal_counts_by_hand():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 4, (2, 20, 30)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    confusion = confusion_of(truth, found, 6)
    known = truth != 255
    ious = []
    for label in range(4):
        union = known & ((truth == label) | (found == label))
        ious.append((known & (truth == label) & (found == label)).sum() / union.sum())
    assert np.allclose(class_ious(confusion)[:4], ious) and class_ious(confusion)[4:].isnan().all()
    assert math.isclose(measures(confusion)["miou"], np.mean(ious))
    assert math.isclose(measures(confusion)["accuracy"], (truth == found)[known].mean())
    pair = torch.tensor(found), torch.tensor(truth).long()
    assert torch.equal(confusion, MulticlassConfusionMatrix(6, ignore_index=255)(*pair))
    index = MulticlassJaccardIndex(6, ignore_index=255)
    assert math.isclose(measures(confusion)["miou"], index(*pair).item(), rel_tol=1e-6)


def test_best_constant__is_that_of_the_commonest_class():
    rng = np.random.default_rng(1)
    truth = rng.choice([0, 1, 3], (40, 40), p=[0.2, 0.5, 0.3]).astype(np.uint8)
    of_constants = [measures(confusion_of(truth, np.full_like(truth, label), 5))["miou"] for label in (0, 1, 3)]
    confusion = confusion_of(truth, rng.integers(0, 5, truth.shape).astype(np.uint8), 5)
    assert math.isclose(best_constant_miou(confusion), max(of_constants))
