"""3x3 convolutions whose weights get their gradient in strips, beside torch's own."""

import copy

import pytest
import torch
from torch import nn

from depth_anything_train.models import convolution
from depth_anything_train.models.convolution import Conv3x3

CPUS = ["AVX2", "AVX512"]
ROWS = convolution.GRADIENT_ROWS


@pytest.fixture(params=CPUS)
def cpu(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return request.param


@pytest.fixture
def strips(monkeypatch):
    """How many rows of the map each strip has."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    rows, backward = [], convolution._backward

    def recorded(gradient, *args, of_x):
        if not of_x:
            rows.append(gradient.shape[2])
        return backward(gradient, *args, of_x=of_x)

    monkeypatch.setattr(convolution, "_backward", recorded)
    return rows


def pair(bias=True):
    torch.manual_seed(0)
    ours = Conv3x3(3, 5, bias=bias)
    plain = nn.Conv2d(3, 5, kernel_size=3, padding=1, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours.to(memory_format=torch.channels_last), plain.double()


def image(height, width=9, batch=2):
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def learn(layer, x, needs_x=True):
    """Result and gradients; those of the map are not the same everywhere."""
    x = x.detach().clone().requires_grad_(needs_x)
    result = layer(x)
    (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
    return [result.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6 * theirs.abs().max().item())


@pytest.mark.parametrize("height", [1, ROWS, ROWS + 1, 2 * ROWS - 1, 2 * ROWS, 2 * ROWS + 1])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_gradients__equal_those_of_a_plain_convolution(height, bias, cpu):
    ours, plain = pair(bias)
    x = image(height)
    assert_equal(learn(ours, x), learn(plain, x.double()))


def test_gradients__equal_those_of_a_plain_convolution_where_the_map_needs_none(cpu):
    ours, plain = pair()
    x = image(2 * ROWS)
    assert_equal(learn(ours, x, needs_x=False), learn(plain, x.double(), needs_x=False))


def test_gradients__can_be_differentiated_again(strips):
    def penalty(layer, x):
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        return [x.grad, layer.weight.grad]

    ours, plain = pair()
    x = image(ROWS + 3)
    assert_equal(penalty(ours, x), penalty(plain, x.double()))


def test_gradients__are_those_of_torch_func_as_well(strips):
    layer = pair()[0]
    x, parameters = image(ROWS + 3, batch=3), dict(layer.named_parameters())

    def total(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    of_each = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))(parameters, x[:, None])["weight"]
    for found, one in zip(of_each, x[:, None], strict=True):
        (expected,) = torch.autograd.grad(total(parameters, one), layer.weight)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.func.grad(total)(parameters, one)["weight"], expected, rtol=1e-4, atol=1e-4)


def test_strips__cover_large_maps_and_keep_the_order_of_the_weights(strips):
    layer = pair()[0]
    (gradient,) = torch.autograd.grad(layer(image(2 * ROWS + 5)).sum(), layer.weight)
    assert strips == [ROWS, ROWS, 5]
    assert gradient.stride() == layer.weight.stride()  # else each step would rearrange it


@pytest.mark.parametrize(
    "why, change",
    [
        ("small", lambda layer, x: (layer, x[:, :, :ROWS])),
        ("contiguous", lambda layer, x: (layer, x.contiguous())),
        ("another precision", lambda layer, x: (layer.double(), x.double())),
        ("frozen", lambda layer, x: (layer.requires_grad_(False), x)),
    ],
)
def test_strips__are_left_to_torch_where_they_gain_nothing(why, change, strips):
    layer, x = change(pair()[0], image(2 * ROWS))
    learn(layer, x)
    assert strips == [], why


def test_strips__are_left_to_torch_under_autocast(strips):
    layer = pair()[0]
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(image(2 * ROWS))
    result.float().sum().backward()
    assert strips == [] and result.dtype == torch.bfloat16


def test_conv3x3__has_the_names_and_the_start_of_a_plain_one():
    torch.manual_seed(0)
    ours = Conv3x3(3, 5)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, kernel_size=3, padding=1)
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    assert repr(copy.deepcopy(ours)) == repr(plain).replace("Conv2d", "Conv3x3")
