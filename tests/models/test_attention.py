from importlib.util import find_spec

import pytest
import timm.layers
import torch

from depth_anything_train.models import attention
from depth_anything_train.models.attention import Attention, attend, set_kernel
from depth_anything_train.runtime import UserError


def plain_attention(query, key, value):
    """From the formula, one head and one token at a time."""
    result = torch.zeros_like(value)
    for batch, head, token in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        scores = [query[batch, head, token] @ other / query.shape[-1] ** 0.5 for other in key[batch, head]]
        share = torch.stack(scores).exp()
        result[batch, head, token] = (share / share.sum()) @ value[batch, head]
    return result


@pytest.mark.parametrize("plain_is_faster", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_attend__every_kernel_matches_the_formula(dtype, tolerance, grad, plain_is_faster, monkeypatch):
    monkeypatch.setattr(attention, "IS_FASTER", plain_is_faster)
    inputs = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(grad):
        result = attend(*(x.to(dtype) for x in inputs))
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), plain_attention(*inputs), rtol=tolerance, atol=tolerance)


def test_attention__equals_timms_with_the_same_weights():
    ours, theirs = Attention(32, num_heads=4), timm.layers.Attention(32, num_heads=4, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("grad", [False, True])
def test_attend__packed_images_see_themselves_alone(grad):
    inputs = torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(grad):
        packed = attend(*inputs, lengths=[2, 6, 1])
        pieces = [attend(*inputs[..., start:stop, :]) for start, stop in ((0, 2), (2, 8), (8, 9))]
    torch.testing.assert_close(packed, torch.cat(pieces, dim=2))


@pytest.mark.skipif(find_spec("xformers") is not None, reason="xformers is installed")
def test_set_kernel__xformers_that_is_not_installed_is_one_sentence():
    with pytest.raises(UserError, match="needs xformers.*or use sdpa"):
        set_kernel(Attention(32, num_heads=4), "xformers")


def test_set_kernel__an_unknown_kernel_is_refused():
    with pytest.raises(UserError, match="sdpa, xformers"):
        set_kernel(Attention(32, num_heads=4), "flash")


def test_attend__the_xformers_kernel_on_a_cpu_is_torchs():
    inputs = torch.randn(3, 1, 2, 9, 4)
    assert torch.equal(attend(*inputs, kernel="xformers"), attend(*inputs))


@pytest.mark.skipif(find_spec("xformers") is None, reason="needs xformers")
def test_attend__xformers_without_a_kernel_is_one_sentence():
    """As on a GPU where its wheel does not load; on a CPU it has none at all."""
    inputs = torch.randn(3, 1, 2, 9, 8, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"xformers.info.*or use sdpa"):
        attention._attend_xformers(*inputs, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [None, [300, 700, 370]])
def test_attend__both_kernels_agree_on_cuda(dtype, lengths):
    pytest.importorskip("xformers")
    attention.load_cuda_12()
    inputs = torch.randn(3, 1, 6, 1370, 64, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    xformers, sdpa = (attend(*inputs, kernel=kernel, lengths=lengths) for kernel in ("xformers", "sdpa"))
    torch.testing.assert_close(xformers, sdpa, rtol=2e-2, atol=2e-3)
