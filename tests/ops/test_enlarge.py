"""The gradient of an enlargement as it is compiled beside torch's own."""

import pytest
import torch

from depth_anything_train.ops.enlarge import _Enlarge, enlarge, gather_gradient

SIDES = [(2, 3, 2, 9), (5, 5, 9, 10), (37, 37, 74, 74), (6, 37, 10, 65), (9, 9, 4, 2)]


def gradients(function, x, size):
    weights = torch.randn(*x.shape[:2], *size, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (function(x, size) * weights).sum().backward()
    gradient, x.grad = x.grad, None
    return gradient


@pytest.mark.parametrize("height, width, taller, wider", SIDES)
def test_gather_gradient__is_the_one_of_torch(height, width, taller, wider):
    x = torch.randn(2, 3, height, width, requires_grad=True, dtype=torch.float64)
    weights = torch.randn(2, 3, taller, wider, dtype=torch.float64)
    (enlarge(x, (taller, wider)) * weights).sum().backward()
    found = gather_gradient(gather_gradient(weights, height, -2), width, -1)
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-4)  # torch holds its weights in float32


@pytest.mark.parametrize("height, width, taller, wider", SIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_enlarge__that_gathers_has_the_values_and_gradients_of_one_that_does_not(height, width, taller, wider, dtype):
    torch._dynamo.reset()
    x = torch.randn(2, 3, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    gathering = lambda x, size: _Enlarge.apply(x, *size)  # noqa: E731, what a GPU gets, compiled
    compiled = torch.compile(gathering, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x, (taller, wider)), enlarge(x, (taller, wider)))
    expected, found = (gradients(way, x, (taller, wider)) for way in (enlarge, compiled))
    assert found.dtype == dtype
    close = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
