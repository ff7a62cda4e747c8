"""All uses of what is not public in Lightning, in one place; written for and tried with pytorch-lightning 2.6.6.

After a change of its version read these again: `tests/callbacks/test_checkpoint.py` and `tests/test_faults.py` run
through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy


def leave_signals_to(listen: Callable[[], None], trainer: Trainer) -> None:
    """Have `listen` called where Lightning would install its own handlers, behind all public hooks before training.

    Those would talk to the other ranks from inside a handler.
    """
    trainer._signal_connector.register_signal_handlers = listen  # type: ignore[method-assign]


def numbers_of_step(trainer: Trainer) -> dict[str, float]:
    """What was logged in the step at hand; `Trainer.logged_metrics` also has what earlier steps logged."""
    return {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}


def share_among_all(strategy: ModelParallelStrategy) -> None:
    """Let all devices share the weights, whose number is not known yet when a strategy is made."""
    strategy._data_parallel_size, strategy._tensor_parallel_size = strategy.num_nodes * strategy.num_processes, 1


def set_batches_done(checkpoint: dict[str, Any], batches: int) -> None:
    """Say in a checkpoint that so many batches are done: its loops count them, and a step may have others now."""
    for count in ("total", "current"):
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][count]
        open_hooks = progress["processed"] - progress["completed"]
        progress.update(ready=batches, started=batches, processed=batches, completed=batches - open_hooks)
