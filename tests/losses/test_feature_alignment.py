import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.losses.feature_alignment import FeatureAlignmentLoss
from depth_anything_train.runtime import UserError


def plain_loss(student, frozen, margin):
    total = 0.0
    for ours, theirs in zip(student.tolist(), frozen.tolist(), strict=True):
        kept = []
        for a, b in zip(ours, theirs, strict=True):
            lengths = [sum(x * x for x in vector) ** 0.5 for vector in (a, b)]
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (lengths[0] * lengths[1])
            if cosine <= margin:
                kept.append(1 - cosine)
        total += sum(kept) / len(kept) if kept else 0.0
    return total / len(student)


def features(seed=0, shape=(2, 9, 4), likeness=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    frozen, noise = torch.randn(2, *shape, generator=generator, dtype=dtype)
    return likeness * frozen + noise, frozen


@given(seed=st.integers(0, 10_000), likeness=st.floats(0, 4), margin=st.sampled_from([0.7, 0.85, 0.999]))
@settings(max_examples=50, deadline=None)
def test_forward__matches_plain_python(seed, likeness, margin):
    student, frozen = features(seed, likeness=likeness)
    expected = plain_loss(student, frozen, margin)
    assert FeatureAlignmentLoss(margin)(student, frozen).item() == pytest.approx(expected, rel=1e-12)


def test_margin__patches_near_enough_get_no_gradient():
    student, frozen = features()
    student[:, :4] = 3 * frozen[:, :4]
    student = student.requires_grad_()
    FeatureAlignmentLoss()(student, frozen).backward()
    cosine = torch.cosine_similarity(student, frozen, dim=-1)
    assert torch.equal(student.grad.abs().sum(-1) > 0, cosine <= 0.85)


def test_margin__one_counts_every_patch_even_equal_ones():
    student, frozen = features(dtype=torch.float32)
    student[:, :4] = frozen[:, :4]
    expected = (1 - torch.cosine_similarity(student, frozen, dim=-1)).mean()
    torch.testing.assert_close(FeatureAlignmentLoss(margin=1.0)(student, frozen), expected)


def test_forward__equal_features_are_an_attached_zero():
    _, frozen = features()
    student = frozen.clone().requires_grad_()
    result = FeatureAlignmentLoss()(student, frozen)
    result.backward()
    assert result.item() == 0 and (student.grad == 0).all()


def test_forward__broken_features_show():
    student, frozen = features()
    student[0, 3, 1] = torch.nan
    assert FeatureAlignmentLoss()(student, frozen).isnan()


def test_forward__ignores_the_length_of_features():
    student, frozen = features()
    loss = FeatureAlignmentLoss()
    torch.testing.assert_close(loss(5 * student, 0.1 * frozen), loss(student, frozen))


def test_forward__frozen_side_gets_no_gradient():
    student, frozen = features()
    frozen.requires_grad_()
    FeatureAlignmentLoss()(student.requires_grad_(), frozen).backward()
    assert frozen.grad is None and student.grad.abs().sum() > 0


def test_forward__gradient_matches_finite_differences():
    student, frozen = features(1)
    assert torch.autograd.gradcheck(lambda x: FeatureAlignmentLoss()(x, frozen), student.requires_grad_())


def test_forward__is_float32_under_autocast():
    student, frozen = features(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = FeatureAlignmentLoss()(student, frozen)
    assert result.dtype == torch.float32
    assert torch.equal(result, FeatureAlignmentLoss()(student.float(), frozen.float()))


@pytest.mark.parametrize("margin", [-1.0, 1.5, float("nan")])
def test_margin__that_leaves_no_patch_or_is_no_cosine_is_refused(margin):
    with pytest.raises(UserError, match=f"Expected the margin .* but got {margin}"):
        FeatureAlignmentLoss(margin)
