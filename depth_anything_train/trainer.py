"""Lightning's trainer for this machine: precision, devices, SLURM, and what Lightning would say about itself."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from depth_anything_train.building import build
from depth_anything_train.devices import register_strategies
from depth_anything_train.models.flops import peak_flops
from depth_anything_train.ops.precision import cpu_multiplies_bfloat16
from depth_anything_train.runtime import UserError, require_choice
from depth_anything_train.signals import RUN_AGAIN

SRUN_TASKS = "SLURM_STEP_NUM_TASKS"
"""How many processes the srun started that this one is of; not set in the script of a job itself."""

PRECISIONS = ("auto", "bf16-mixed", "32-true")


def build_trainer(cfg: DictConfig, *, plugins: list[Any], **arguments: Any) -> pl.Trainer:
    """What `cfg.trainer` describes.

    Raises:
        UserError: this machine lacks what the config asks for, or torchrun or srun started another number of processes.
    """
    quiet_lightning()
    # `deterministic` would fill every new tensor first, against reads of memory that nothing wrote: 7 % of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    register_strategies(cfg.timeout_s)
    precision = choose_precision(cfg.trainer.precision, device_type(cfg))
    node = OmegaConf.merge(cfg.trainer, {"precision": precision})
    try:
        trainer: pl.Trainer = build(node, plugins=[*plugins, *_slurm()], **arguments)
    except MisconfigurationException as error:
        raise UserError(f"The settings under trainer do not fit this machine: {error}") from None
    _check_launch(trainer)
    return trainer


def _check_launch(trainer: pl.Trainer) -> None:
    """Compare the trainer with what torchrun or srun started: each of two trainings of one device would write the run.

    Raises:
        UserError: the number of processes differs.
    """
    if TorchElasticEnvironment.detect():
        started, launcher = TorchElasticEnvironment().world_size(), "torchrun"
        options = "--nproc-per-node and --nnodes of torchrun"
    elif SLURMEnvironment.detect() and SRUN_TASKS in os.environ:
        started, launcher, options = int(os.environ[SRUN_TASKS]), "srun", "--ntasks-per-node and --nodes of the job"
    else:
        return
    devices, nodes = trainer.num_devices, trainer.num_nodes
    if started != devices * nodes:
        raise UserError(
            f"Expected trainer.devices times trainer.num_nodes to be the {started} processes that {launcher} started, "
            f"but got {devices} times {nodes}; set them to {options}."
        )


def device_type(cfg: DictConfig) -> str:
    """What the run computes on, `cuda` or `cpu`: a machine with a GPU trains on its CPU where `trainer=cpu` says so."""
    wants_gpu = cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "cuda" if wants_gpu and torch.cuda.is_available() else "cpu"


def choose_precision(wanted: str, device: str) -> str:
    """Resolve `auto`: bf16 autocast where the hardware multiplies bf16, else float32.

    Args:
        wanted: `auto`, `bf16-mixed` or `32-true`.
        device: `cuda` or `cpu`, what is computed on.

    Raises:
        UserError: it is another word. fp16 needs its losses scaled, and the guard takes what then overflows for broken.
    """
    require_choice("precision", wanted, PRECISIONS)
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if cpu_multiplies_bfloat16() else "32-true"


def device_peak(cfg: DictConfig) -> float | None:
    """What the device could do, where that is known and the run computes in 16 bits."""
    device = device_type(cfg)
    if device == "cpu" or choose_precision(cfg.trainer.precision, device).startswith("32"):
        return None
    return peak_flops(torch.cuda.get_device_name())


def quiet_lightning() -> None:
    """Silence Lightning's messages about itself and about machines in general."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # Lightning's own
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # it is on every login node
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # `doctor` looks at `workers`
    warnings.filterwarnings("ignore", message="GPU available but not used")  # `trainer=cpu` says so


def _slurm() -> list[SLURMEnvironment]:
    """In a SLURM job Lightning would save inside a signal handler and requeue; here the job's script requeues."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def stopped_status(trainer: pl.Trainer) -> int:
    """The exit status of a rank when all were asked to stop.

    The launcher that Lightning is without torchrun or SLURM kills its own process if another one leaves with anything
    but 0; its own status is what the user sees.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    return 0 if launched else RUN_AGAIN
