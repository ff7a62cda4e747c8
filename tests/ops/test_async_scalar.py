import torch

from depth_anything_train.ops.async_scalar import AsyncScalar


def test_later__is_the_number_as_it_was():
    x = torch.tensor(1.5)
    later = AsyncScalar(x)
    x += 1
    assert later.read() == 1.5
    assert AsyncScalar(torch.tensor(True)).read() == 1.0
