"""Several devices: the strategies by which Lightning divides the work among them, and detection of a lost one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed import DistError
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from depth_anything_train.internals import share_among_all


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices: each holds its part of the weights, and a block is whole only while it computes.

    Checkpoints hold the full state in one file, as everywhere else.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """All devices share the weights; none of them shares a layer."""
        share_among_all(self)
        super().setup_environment()


def register_strategies(timeout_s: float) -> None:
    """Let `trainer.strategy` be `ddp`, which is `auto` where there are several devices, or `fsdp2`.

    Args:
        timeout_s: how long a rank waits for the others before it takes them for lost.
    """
    for name, strategy in (("ddp", DDPStrategy), ("fsdp2", ShardedStrategy)):
        StrategyRegistry.register(name, strategy, override=True, timeout=timedelta(seconds=timeout_s))


def share_out(model: nn.Module, blocks: nn.ModuleList, mesh: Any, *, methods: tuple[str, ...]) -> None:
    """Share the weights of a model out among the ranks of a mesh, in place.

    Args:
        model: the model, the same on every rank.
        blocks: its largest equal parts, each of which is gathered by itself.
        mesh: device mesh of all ranks.
        methods: names of the methods that are called besides `forward`.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(model, method)


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error says that another rank has died or fallen silent."""
    return isinstance(error, DistError) or "gloo" in str(error)
