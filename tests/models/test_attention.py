import pytest
import timm.layers
import torch

from depth_anything_train.models.attention import Attention, attend


def plain_attention(query, key, value):
    """From the formula, one head and one token at a time."""
    result = torch.zeros_like(value)
    for batch, head, token in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        scores = [query[batch, head, token] @ other / query.shape[-1] ** 0.5 for other in key[batch, head]]
        share = torch.stack(scores).exp()
        result[batch, head, token] = (share / share.sum()) @ value[batch, head]
    return result


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_attend__every_kernel_matches_the_formula(dtype, tolerance, grad):
    inputs = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(grad):
        result = attend(*(x.to(dtype) for x in inputs))
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), plain_attention(*inputs), rtol=tolerance, atol=tolerance)


def test_attention__equals_timms_with_the_same_weights():
    ours, theirs = Attention(32, num_heads=4, qkv_bias=True), timm.layers.Attention(32, num_heads=4, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x))
