import pytest
import torch

from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.optim.adamw import EncoderDecoderAdamW
from depth_anything_train.runtime import UserError


def model():
    torch.manual_seed(0)
    sizes = dict(embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8, 8, 8, 8], image_size=28)
    return build_depth_model(name="test", **sizes)


def test_recipe__holds_the_papers_values():
    optimizer, _ = EncoderDecoderAdamW().build(model(), steps=10)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"encoder": 5e-6, "decoder": 5e-5}
    assert all(g["betas"] == (0.9, 0.999) and g["weight_decay"] == 0.01 for g in optimizer.param_groups)


def test_recipe__takes_lists_from_a_config():
    optimizer, _ = EncoderDecoderAdamW(betas=[0.8, 0.9]).build(model(), steps=10)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def test_recipe__trains_every_trainable_parameter_and_no_other():
    network = model()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer, schedule = EncoderDecoderAdamW(encoder_lr=1e-3, decoder_lr=1e-3).build(network, steps=2)
    disparity, patches = network.forward_features(torch.randn(2, 3, 28, 28))
    (disparity.square().mean() + patches.square().mean()).backward()
    optimizer.step()
    schedule.step()
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in network.named_parameters() if p.requires_grad}
    assert optimizer.param_groups[0]["lr"] == 5e-4


def test_recipe__fused_steps_equal_plain_adamw():
    networks = [model().double() for _ in range(2)]
    fused, _ = EncoderDecoderAdamW(encoder_lr=1e-2, decoder_lr=1e-2).build(networks[0], steps=5)
    trainable = [p for p in networks[1].parameters() if p.requires_grad]
    plain = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.01, foreach=False)
    image = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    for _ in range(3):
        for network, optimizer in zip(networks, (fused, plain), strict=True):
            optimizer.zero_grad()
            network(image).square().mean().backward()
            optimizer.step()
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a, b)


def test_build__a_negative_rate_is_refused():
    with pytest.raises(UserError, match="encoder_lr=-1"):
        EncoderDecoderAdamW(encoder_lr=-1).build(torch.nn.Linear(1, 1), steps=2)
