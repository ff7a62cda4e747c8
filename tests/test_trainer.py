import pytest
import torch

from depth_anything_train.composition import compose
from depth_anything_train.runtime import UserError
from depth_anything_train.trainer import build_trainer, choose_precision, device_peak, device_type


@pytest.mark.parametrize("wanted", ["16-mixed", "fp16", "bf16"])
def test_choose_precision__refuses_what_training_cannot_do(wanted):
    with pytest.raises(UserError, match=f"auto, bf16-mixed, 32-true, but got '{wanted}'"):
        choose_precision(wanted, "cpu")


def test_device_type__is_that_of_the_run_where_the_machine_has_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    on_cpu, on_gpu = (
        compose("train", ["experiment=tiny_teacher", "out=x", f"trainer={name}"]) for name in ("cpu", "default")
    )
    assert [device_type(cfg) for cfg in (on_cpu, on_gpu)] == ["cpu", "cuda"]
    assert [choose_precision("auto", device_type(cfg)) for cfg in (on_cpu, on_gpu)] == ["32-true", "bf16-mixed"]
    assert device_peak(on_cpu) is None


def test_build_trainer__refuses_processes_that_would_not_know_of_each_other(monkeypatch):
    launch = {"TORCHELASTIC_RUN_ID": "x", "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    one = compose("train", ["experiment=tiny_teacher", "out=x"])
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert build_trainer(one, plugins=[], logger=False).world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="the 2 processes that torchrun started, but got 1 times 1"):
        build_trainer(one, plugins=[], logger=False)
    two = compose("train", ["experiment=tiny_teacher", "out=x", "trainer.devices=2"])
    assert build_trainer(two, plugins=[], logger=False).world_size == 2


def test_build_trainer__refuses_tasks_of_slurm_that_would_not_know_of_each_other(monkeypatch):
    task = {
        "NTASKS": 2,
        "NTASKS_PER_NODE": 2,
        "JOB_NAME": "train",
        "JOB_ID": 7,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
        "NODELIST": "here",
    }
    for name, value in task.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    one, two = (compose("train", ["experiment=tiny_teacher", "out=x", f"trainer.devices={n}"]) for n in (1, 2))
    assert build_trainer(one, plugins=[], logger=False).world_size == 1, "without srun there is one process"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match="the 2 processes that srun started, but got 1 times 1"):
        build_trainer(one, plugins=[], logger=False)
    assert build_trainer(two, plugins=[], logger=False).world_size == 2
