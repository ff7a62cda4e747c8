from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from depth_anything_train.losses.mask_sets import MaskSetLoss
from depth_anything_train.runtime import UserError

MATCH = {"classes": 2.0, "mask": 5.0, "dice": 5.0}


def loss(**changes):
    return MaskSetLoss(**{**dict(num_classes=4, points=400, match=MATCH), **changes})


def random(batch=2, queries=5, layers=3, size=12):
    torch.manual_seed(0)
    classes = [torch.randn(batch, queries, 5, requires_grad=True) for _ in range(layers)]
    masks = [torch.randn(batch, queries, size, size, requires_grad=True) for _ in range(layers)]
    return classes, masks


def constant(value, size=200):
    """A mask that is the same everywhere, but for its very edge, so that it hardly matters where points are drawn."""
    return torch.full((size, size), float(value))


def test_loss__equals_the_formulas_where_masks_are_constant():
    """Every point then has the same value; the best of all matchings is found by trying them."""
    torch.manual_seed(0)
    queries, values = torch.randn(1, 3, 5), torch.tensor([-2.0, 0.5, 3.0])
    masks = torch.stack([constant(value) for value in values])[None]
    labels = torch.full((1, 200, 200), 2, dtype=torch.uint8)  # one mask that covers everything

    def terms(query):
        p = torch.sigmoid(values[query])
        dice = 1 - (2 * 400 * p + 1) / (400 * p + 400 + 1)
        return F.softplus(-values[query]), dice, queries[0, query].softmax(-1)[2]

    costs = [5 * terms(q)[0] + 5 * terms(q)[1] - 2 * terms(q)[2] for q in range(3)]
    best = int(torch.stack(costs).argmin())
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.1])
    target = torch.full((3,), 4)
    target[best] = 2
    expected = {
        "classes": F.cross_entropy(queries[0], target, weight=weights),
        "mask": terms(best)[0],
        "dice": terms(best)[1],
    }
    found = loss(importance=0.0)([queries], [masks], labels)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0.02, atol=0.005)


def test_matching__is_the_best_of_all():
    """Three masks that are halves and a quarter, three queries: each permutation is tried."""
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, :, 6:] = 1
    labels[:, :6, 6:] = 2
    masks = torch.stack([(labels[0] == c).float() * 40 - 20 for c in (2, 0, 1)])[None]
    logits = torch.full((1, 3, 5), -10.0)
    for query, c in enumerate((2, 0, 1)):
        logits[0, query, c] = 10.0
    found = loss(points=4000)([logits], [masks], labels)
    costs = {order: F.cross_entropy(logits[0], torch.tensor(order)).item() for order in permutations((2, 0, 1))}
    assert found["classes"] == pytest.approx(costs.pop((2, 0, 1)), abs=1e-7) and found["classes"] < min(costs.values())


def test_loss__is_the_sum_over_layers():
    classes, masks = random()
    labels = torch.randint(0, 4, (2, 12, 12), dtype=torch.uint8)

    def of(c, m):
        return loss()(c, m, labels)

    torch.manual_seed(7)
    apart = [of([c], [m]) for c, m in zip(classes, masks, strict=True)]
    torch.manual_seed(7)
    together = of(classes, masks)
    assert set(together) == {"classes", "mask", "dice"}
    for name in together:
        torch.testing.assert_close(together[name], sum(layer[name] for layer in apart))


def test_loss__an_image_without_any_class_adds_nothing():
    classes, masks = random()
    labels = torch.randint(0, 4, (2, 12, 12), dtype=torch.uint8)
    labels[1] = 255

    def of(c, m, given):
        torch.manual_seed(3)
        return loss()(c, m, given)

    both = of(classes, masks, labels)
    alone = of([c[:1] for c in classes], [m[:1] for m in masks], labels[:1])
    assert all(torch.equal(both[name], alone[name]) for name in both)
    nothing = of(classes, masks, torch.full_like(labels, 255))
    sum(nothing.values()).backward()
    assert all(value == 0 for value in nothing.values())
    assert all((x.grad == 0).all() for x in (*classes, *masks)), "a gradient there is, of 0"


def test_loss__pixels_without_class_belong_to_no_mask():
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, 6:] = 255
    logits = torch.tensor([[[9.0, -9, -9, -9, -9]]])
    right = ((labels != 255).float() * 40 - 20)[:, None]
    everywhere = constant(20, 12)[None, None]
    assert loss()([logits], [right], labels)["dice"] < loss()([logits], [everywhere], labels)["dice"] - 0.1


def test_extra__is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match="hf"):
        loss()
