import torch

from depth_anything_train.ops.precision import at_least_float32, in_float32


def test_at_least_float32__raises_half_precision_only():
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.bool, torch.int64)
    raised = [at_least_float32(torch.zeros(1, dtype=dtype)).dtype for dtype in dtypes]
    assert raised == [torch.float32, torch.float32, torch.float32, torch.float64, torch.bool, torch.int64]


def test_in_float32__switches_autocast_off_inside():
    product = in_float32(torch.matmul)
    a = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        assert product(a, a).dtype == torch.float32
        assert product(a.bfloat16(), other=a).dtype == torch.float32
    assert product(a.double(), a.double()).dtype == torch.float64
