"""`depth-anything evaluate`: a model on labelled shards -> one table, with the protocol that made it.

The same on several processes: `torchrun --nproc-per-node 2 -m depth_anything_train.cli evaluate key=value ...`.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.composition import plain
from depth_anything_train.data.test_sets import open_data
from depth_anything_train.evaluation.distributed import join_ranks
from depth_anything_train.evaluation.judges import judge_of
from depth_anything_train.evaluation.models import name_of, open_model, require_reader
from depth_anything_train.evaluation.run import run_benchmark, run_suite
from depth_anything_train.files import require_writable
from depth_anything_train.runtime import UserError

OF_SUITES = ("root", "models", "against")


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate `cfg.model` on `cfg.data` under `cfg.benchmark`, or through `cfg.suite`, and write to `cfg.out`."""
    out = Path(cfg.out)
    require_writable(out)
    refuse_false_names(cfg, list(HydraConfig.get().overrides.task))
    with join_ranks() as ranks:
        if "suite" in cfg:
            run_suite(cfg, ranks)
            return
        if given := [key for key in OF_SUITES if cfg[key] is not None]:
            raise UserError(f"{', '.join(given)} belongs to a suite: add suite=NAME, or leave it out.")
        require_reader(cfg.labelled, [cfg.model])
        protocol = build(cfg.benchmark)
        shards = open_data(plain(cfg.data), kind=judge_of(protocol).shards_kind)
        model = open_model(cfg.model, cfg.labelled, device=cfg.device, progress=ranks.first)
        run_benchmark(cfg, model, name_of(cfg.model), shards, protocol, out, ranks)


def refuse_false_names(cfg: DictConfig, typed: list[str]) -> None:
    """A published protocol that was changed on the command line has to take another name.

    Raises:
        UserError: it kept its own.
    """
    if "suite" in cfg and any(text.startswith("suite.") and ".protocol." in text for text in typed):
        raise UserError("A suite takes the protocols as they are published; write a suite of your own for others.")
    changed = [text for text in typed if text.startswith("benchmark.")]
    if "suite" not in cfg and changed and cfg.benchmark.family != "own":
        raise UserError(
            f"{cfg.benchmark.name} is a published protocol, and {', '.join(changed)} makes it another; a number under "
            "that name would mislead, so name yours: benchmark.name=mine benchmark.family=own."
        )
