"""No loss reads a value back from the device: on the meta device there is none to read."""

import pytest
import torch

from depth_anything_train.losses.affine_invariant import AffineInvariantLoss
from depth_anything_train.losses.feature_alignment import FeatureAlignmentLoss
from depth_anything_train.losses.gradient_matching import GradientMatchingLoss
from depth_anything_train.losses.pseudo_label import PseudoLabelLoss
from depth_anything_train.losses.silog import SILog


@pytest.mark.parametrize(
    "loss, maps",
    [
        (AffineInvariantLoss(), ("valid",)),
        (GradientMatchingLoss(), ("valid",)),
        (PseudoLabelLoss(), ("valid", "region")),
        (FeatureAlignmentLoss(), ()),
        (SILog(), ("valid",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_loss__runs_forward_and_backward_without_any_values(loss, maps):
    with torch.device("meta"):
        pred, target = torch.empty(4, 1, 28, 42, requires_grad=True), torch.empty(4, 1, 28, 42)
        masks = [torch.empty(4, 1, 28, 42, dtype=torch.bool) for _ in maps]
        inputs = [x.flatten(2) for x in (pred, target)] if not maps else [pred, target]
        result = loss(*inputs, *masks)
        result.backward()
    assert result.shape == () and pred.grad.shape == pred.shape
