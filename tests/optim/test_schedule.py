import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depth_anything_train.optim.schedule import linear_decay, linear_factor
from depth_anything_train.runtime import UserError


def optimizer():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rates = (1.0, 10.0)
    return torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)])


def rates(steps, warmup_steps=0, of=None):
    made = of or optimizer()
    schedule = linear_decay(made, steps=steps, warmup_steps=warmup_steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in made.param_groups])
        made.step()
        schedule.step()
    return seen, schedule.get_last_lr()


def test_decay__falls_in_a_line_to_zero_in_every_group():
    seen, last = rates(4)
    assert seen == [[1.0, 10.0], [0.75, 7.5], [0.5, 5.0], [0.25, 2.5]]
    assert last == [0, 0]


def test_warmup__rises_in_a_line_first():
    seen, _ = rates(8, warmup_steps=4)
    assert [pair[0] for pair in seen] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])


@given(steps=st.integers(1, 100), share=st.floats(0, 0.99))
def test_factor__lies_in_zero_to_one_and_peaks_after_the_warmup(steps, share):
    warmup = int(share * steps)
    factors = [linear_factor(step, steps=steps, warmup_steps=warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors.index(max(factors)) == warmup and factors[warmup] == 1
    assert linear_factor(steps + 5, steps=steps, warmup_steps=warmup) == 0


def test_decay__continues_from_its_state():
    made = optimizer()
    schedule = linear_decay(made, steps=10)
    for _ in range(3):
        made.step()
        schedule.step()
    again = optimizer()
    continued = linear_decay(again, steps=10)
    continued.load_state_dict(schedule.state_dict())
    again.load_state_dict(made.state_dict())
    for one, other in ((made, schedule), (again, continued)):
        one.step()
        other.step()
    assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in made.param_groups] == [0.6, 6.0]


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_decay__refuses_a_power_by_which_nothing_falls(power):
    with pytest.raises(UserError, match="optim.power above 0"):
        linear_decay(optimizer(), steps=4, power=power)


@pytest.mark.parametrize("steps, warmup_steps", [(4, 4), (4, 5), (0, 0), (4, -1)])
def test_decay__refuses_a_warmup_as_long_as_the_run(steps, warmup_steps):
    with pytest.raises(UserError, match="fewer warm-up steps"):
        linear_decay(optimizer(), steps=steps, warmup_steps=warmup_steps)
