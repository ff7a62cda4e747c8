import math

import networks
import pytest
import torch

from depth_anything_train.optim.one_cycle import OneCycleAdamW
from depth_anything_train.optim.schedule import linear_factor
from depth_anything_train.runtime import UserError


def built(steps=100, **options):
    model = networks.build(kind="metric", bins={"domains": [["nyu", 0.001, 10.0]]})
    return OneCycleAdamW(**options).build(model, steps)


def test_groups__have_the_published_rates():
    optimizer, _ = built()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    slow = pytest.approx(3.22e-6)
    assert rates == {"encoder": slow, "positions": slow, "decoder": slow, "head": pytest.approx(1.61e-4)}
    by_name = {group["name"]: group["param_names"] for group in optimizer.param_groups}
    assert by_name["positions"] == ["pretrained.pos_embed"]
    assert all(name.startswith("depth_head.bins.") for name in by_name["head"])
    assert "depth_head.scratch.output_conv2.2.bias" in by_name["decoder"]


def test_rates__are_constant_for_seven_tenths_and_then_fall_in_a_cosine():
    optimizer, schedule = built()
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:70] == [pytest.approx(1.61e-4)] * 70
    low = 1.61e-8
    expected = [low + (1.61e-4 - low) * (1 + math.cos(math.pi * (step - 69) / 30)) / 2 for step in range(70, 100)]
    assert rates[70:] == pytest.approx(expected)


def test_schedule__continues_where_it_was():
    optimizer, schedule = built()
    for _ in range(80):
        optimizer.step()
        schedule.step()
    again, continued = built()
    again.load_state_dict(optimizer.state_dict())
    continued.load_state_dict(schedule.state_dict())
    for one in (optimizer, again):
        one.step()
    for one in (schedule, continued):
        one.step()
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in again.param_groups]
    assert [g["betas"] for g in optimizer.param_groups] == [g["betas"] for g in again.param_groups]


def test_poly__is_the_line_to_the_power():
    factors = [linear_factor(step, steps=10, power=0.9) for step in range(11)]
    assert factors == pytest.approx([(1 - step / 10) ** 0.9 for step in range(11)])


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"encoder_division": 0.0}, {"constant_share": 1.0}, {"final_division": 0.5}]
)
def test_build__numbers_that_cannot_be_are_refused(options):
    with pytest.raises(UserError, match="Expected"):
        built(**options)


def test_build__a_model_without_bins_is_refused():
    """Its new last layer would be a part of the decoder, which learns 50 times slower."""
    bounded = networks.build(kind="metric", max_depth_m=10.0)
    with pytest.raises(UserError, match="take optim=adamw with model.bins=null"):
        OneCycleAdamW().build(bounded, 100)


def test_build__one_step_is_a_run():
    optimizer, schedule = built(steps=1)
    optimizer.step()
    schedule.step()
    assert torch.isfinite(torch.tensor(schedule.get_last_lr())).all()
