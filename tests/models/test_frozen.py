import copy

import torch
from torch import nn

from depth_anything_train.models.frozen import Frozen


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.teacher = Frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))

    def forward(self, x):
        return self.own(x) + self.teacher(x)


def test_frozen__adds_nothing_to_the_weights_of_its_parent():
    parent = Parent()
    assert set(parent.state_dict()) == {"own.weight", "own.bias"}
    assert {name for name, _ in parent.named_parameters()} == {"own.weight", "own.bias"}
    assert not list(parent.teacher.buffers())


def test_frozen__parent_loads_strictly_and_it_stays_what_it_was():
    parent, other = Parent(), Parent()
    before = copy.deepcopy(parent.teacher.module.state_dict())
    parent.load_state_dict(other.state_dict(), strict=True)
    after = parent.teacher.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(parent.own.weight, other.own.weight)


def test_frozen__stays_in_eval_mode_without_gradient():
    parent = Parent().train()
    parent.requires_grad_(True)
    before = copy.deepcopy(parent.teacher.module.state_dict())
    x = torch.randn(4, 2, requires_grad=True)
    first, second = parent(x), parent(x)
    assert torch.equal(first, second)  # no dropout, no batch statistics
    parent.teacher(x).requires_grad_().sum().backward()
    assert x.grad is None
    first.sum().backward()
    assert all(not p.requires_grad and p.grad is None for p in parent.teacher.module.parameters())
    assert all(torch.equal(before[name], value) for name, value in parent.teacher.module.state_dict().items())


def test_frozen__moves_with_its_parent():
    parent = Parent().to(torch.float64)
    assert parent(torch.randn(3, 2, dtype=torch.float64)).dtype == torch.float64
    parent.to("meta")
    assert all(p.device.type == "meta" for p in parent.teacher.module.parameters())


def test_frozen__can_be_copied_and_the_copy_is_its_own():
    parent = Parent()
    twin = copy.deepcopy(parent)
    x = torch.randn(3, 2)
    assert torch.equal(parent(x), twin(x))
    assert twin.teacher.module is not parent.teacher.module
