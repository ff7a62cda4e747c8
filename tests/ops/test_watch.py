import torch

from depth_anything_train.losses.affine_invariant import AffineInvariantLoss
from depth_anything_train.losses.feature_alignment import FeatureAlignmentLoss
from depth_anything_train.losses.pseudo_label import PseudoLabelLoss
from depth_anything_train.ops.watch import watch, watch_range, watching


def test_watch__nothing_is_computed_when_nobody_looks():
    def measure():
        raise AssertionError("computed")

    watch("a", measure)
    with watching() as seen:
        pass
    watch("a", measure)
    assert seen == {}


def test_watch__the_first_of_a_name_counts():
    with watching() as seen:
        watch("a", lambda: torch.tensor(1.0))
        watch("a", lambda: torch.tensor(2.0))
    assert seen["a"] == 1


def test_watch__carries_no_gradient():
    with watching() as seen:
        watch("a", lambda: torch.ones(2, requires_grad=True) * 2)
    assert not seen["a"].requires_grad


def test_watch_range__is_that_of_the_maps_and_of_equal_parts_of_them():
    maps = torch.randn(4, 1, 64, 64) + torch.arange(4).reshape(4, 1, 1, 1)
    with watching() as seen:
        watch_range("x", maps)
    assert seen["x/min"] == maps.min() and seen["x/max"] == maps.max()
    assert abs(seen["x/median"] - torch.stack([x.median() for x in maps]).mean()) < 0.2
    parts = []
    for part in maps.split(2):
        with watching() as one:
            watch_range("x", part)
        parts.append(one["x/median"])
    assert torch.allclose(seen["x/median"], torch.stack(parts).mean())


def test_losses__say_what_they_did_and_stay_as_they_are():
    torch.manual_seed(0)
    pred, target = torch.rand(3, 1, 28, 28), torch.rand(3, 1, 28, 28)
    valid = torch.rand(3, 1, 28, 28) > 0.3
    valid[1] = False
    student, frozen = torch.randn(2, 50, 8), torch.randn(2, 50, 8)
    labelled, pseudo, feature = AffineInvariantLoss(), PseudoLabelLoss(trim=0.25), FeatureAlignmentLoss(margin=0.2)
    arguments = [
        (labelled, (pred, target, valid)),
        (pseudo, (pred, target, valid, valid)),
        (feature, (student, frozen)),
    ]
    unwatched = [loss(*given) for loss, given in arguments]
    with watching() as seen:
        watched = [loss(*given) for loss, given in arguments]
    assert watched == unwatched

    each = seen["per_image"]
    assert each.isnan().tolist() == [False, True, False]  # an image without a label has no loss of its own
    assert torch.allclose(each.nan_to_num(0).mean(), watched[0])
    assert abs(seen["trimmed_pixels"] - 0.25 * 2 / 3) < 0.01  # mean over images: one has no pixel to leave out
    cosine = torch.nn.functional.cosine_similarity(student, frozen, dim=-1)
    assert seen["patches_above_margin"] == (cosine > 0.2).float().mean()
