import pytest
import torch

from depth_anything_train.models.dpt import DPTHead, FeatureFusion
from depth_anything_train.ops.enlarge import enlarge


def head(seed=0, **options):
    torch.manual_seed(seed)
    return DPTHead(embed_dim=16, features=8, out_channels=(4, 6, 8, 10), **options)


def maps(h=4, w=5, dtype=torch.float32):
    return list(torch.randn(4, 2, 16, h, w, dtype=dtype, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 3)])
def test_fusion__convolving_before_enlarging_equals_the_released_order(size):
    fusion = FeatureFusion(8).double()
    x, finer = torch.randn(2, 2, 8, 4, 5, dtype=torch.float64)
    ours = fusion(x, finer, size)
    released = fusion.out_conv(enlarge(fusion.resConfUnit2(x + fusion.resConfUnit1(finer)), size))
    torch.testing.assert_close(ours, released, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("h, w", [(4, 4), (1, 1), (3, 7)])
def test_forward__gives_a_map_of_the_wanted_size(h, w):
    assert head()(maps(h, w), (14 * h, 14 * w)).shape == (2, 1, 14 * h, 14 * w)


@pytest.mark.parametrize("seed", range(20))
def test_relative__starts_with_every_pixel_alive(seed):
    assert (head(seed)(maps(), (56, 70)) > 0).all()


def test_relative__is_never_negative():
    decoder = head()
    torch.nn.init.constant_(decoder.scratch.output_conv2[2].bias, -0.05)
    disparity = decoder(maps(), (56, 70))
    assert (disparity >= 0).all() and (disparity == 0).any()


def test_metric__stays_below_the_farthest_depth():
    depth_m = head(max_depth_m=80.0)(maps(), (56, 70))
    assert (depth_m > 0).all() and (depth_m < 80).all()


def test_forward__last_layer_is_float32_under_autocast():
    decoder = head()
    with torch.autocast("cpu", torch.bfloat16):
        disparity = decoder(maps(), (56, 70))
    assert disparity.dtype == torch.float32
    assert not torch.equal(disparity, disparity.bfloat16().float())
    torch.testing.assert_close(disparity, decoder(maps(), (56, 70)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("size", [(518, 520), (576, 460), (513, 512)])
def test_forward__strips_give_the_same_map_as_the_whole(size, monkeypatch):
    decoder, rows = head(), []
    whole = decoder(maps(), size)
    output = decoder._output
    monkeypatch.setattr(decoder, "_output", lambda x: rows.append(x.shape[2]) or output(x))
    with torch.no_grad():
        strips = decoder(maps(), size)
    assert len(rows) == 2 * -(-size[0] // 64) and max(rows) == 66
    torch.testing.assert_close(strips, whole.detach(), rtol=0, atol=1e-6 * whole.max().item())


def test_forward__every_trainable_parameter_gets_a_gradient():
    decoder = head()
    decoder(maps(), (56, 70)).square().sum().backward()
    without = {name for name, parameter in decoder.named_parameters() if parameter.grad is None}
    assert without == {name for name, parameter in decoder.named_parameters() if not parameter.requires_grad}
    assert without == {f"scratch.refinenet4.resConfUnit1.conv{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
