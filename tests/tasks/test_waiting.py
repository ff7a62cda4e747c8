"""Steps on a GPU that is made up: shapes and devices are known, nothing is computed, and no driver is needed."""

import types

import pytest
import steps
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda:0")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
"""Operations whose outcome the processor has to know before it goes on."""


class Waits(TorchDispatchMode):
    """Notes what makes the processor wait for the device: copies between them, and values or shapes it must know."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in (*args, result) if isinstance(one, torch.Tensor)]
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if any(word in str(func) for word in WAITING) or (copies and len({one.device.type for one in tensors}) > 1):
            self.found.append(str(func))
        return result


def on_gpu(module):
    """The same weights, not their values, on the made-up GPU."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty_like(weight, device=GPU), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=GPU)


def batch_on_gpu():
    return {
        name: torch.empty_like(value, device=GPU) if isinstance(value, torch.Tensor) else value
        for name, value in steps.labelled(2).items()
    }


def make_task(name):
    if name != "routed":
        return steps.make_task(name)
    domains = "[[nyu,0.001,10.0],[kitti,0.001,80.0]]"
    return steps.make_task(
        "tiny_metric", **{"task": "metric_routed", "model.bins.domains": domains, "model.max_depth_m": 80}
    )


def streams(experiment):
    """A batch as the loader gives it to the task."""
    if experiment == "routed":
        return {"nyu": batch_on_gpu(), "kitti": batch_on_gpu()}
    if experiment == "tiny_student":
        region = torch.zeros(2, 1, 28, 28, dtype=torch.bool, device=GPU)
        return {"labelled": batch_on_gpu(), "unlabelled": {**batch_on_gpu(), "region": region}}
    return {"labelled": batch_on_gpu()}


@pytest.mark.parametrize("experiment", ["tiny_teacher", "tiny_student", "tiny_metric", "routed"])
def test_training_step__keeps_to_the_gpu_and_never_waits_for_it(experiment, monkeypatch):
    task = make_task(experiment)
    task.trainer = types.SimpleNamespace(global_step=0, log_every_n_steps=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu(task)
        if frozen := getattr(task, "frozen_encoder", None):
            on_gpu(frozen.module)
        task._device = GPU
        batch = streams(experiment)
        with Waits() as waits:
            loss = task.training_step(batch, 0)
    assert loss.device == GPU and loss.dtype == torch.float32
    assert waits.found == []
