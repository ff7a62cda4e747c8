"""Models through a suite: one evaluation a model and benchmark, then the paper's table with ours below."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.composition import plain
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.test_sets import EvenlySpread, open_data
from depth_anything_train.evaluation.distributed import Ranks
from depth_anything_train.evaluation.files import PAGE, refuse_others, write_results
from depth_anything_train.evaluation.judges import judge_of
from depth_anything_train.evaluation.loop import check_kind, evaluate, with_flip
from depth_anything_train.evaluation.models import name_of, open_model, require_reader
from depth_anything_train.evaluation.page import result_page, suite_page
from depth_anything_train.evaluation.suite import Suite, find_data, missing_text, read_suite
from depth_anything_train.evaluation.table import Entry, compare, to_csv, to_markdown
from depth_anything_train.files import read_json, write_bytes, write_json
from depth_anything_train.inference.prediction import Predictor
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.runtime import UserError, console

TABLE = "table.json"


def run_benchmark(
    cfg: DictConfig,
    model: Predictor,
    name: str,
    shards: Mapping[str, ShardFolder],
    protocol: EvaluationProtocol,
    out: Path,
    ranks: Ranks,
) -> dict[str, Any]:
    """One model under one protocol: write the results and print the headline.

    Returns:
        The content of results.json; nothing on the processes that do not write.

    Raises:
        UserError: as `refuse_others` and `evaluate`.
    """
    judge, size, settings = judge_of(protocol), plain(cfg.size) or protocol.size, settings_of(cfg)
    refuse_others(out, identity(model, size), shards, {"protocol": protocol.to_dict(), **settings})
    keys = {key: plain(cfg[key]) for key in ("split_by", "size", "batch_size", "align_metric")}
    chosen = {name: EvenlySpread(folder, cfg.limit) for name, folder in shards.items()}
    results = evaluate(model, chosen, protocol, ranks=ranks, **keys)
    if not ranks.first:
        return {}
    if cfg.page:
        page = result_page(results, name, with_flip(model, protocol), chosen, judge, size)
        write_bytes(out / PAGE, page.encode())
    written = write_results(out, results, {"name": name, **identity(model, size)}, shards, settings)
    if warning := written["unit_warning"]:
        console.print(f"warning: {warning}", style="bold yellow", soft_wrap=True)
    counts = f"{len(results.images)} images, {results.skipped.total()} skipped"
    console.print(f"{headline(written['mean'])} ({counts}): {out / 'results.md'}", soft_wrap=True)
    return written


def identity(model: Predictor, size: Any) -> dict[str, Any]:
    """What of a model decides the numbers, for results.json."""
    return {"hash": model.hash, "setup": dict(model.setup), "size": size}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """What decides the numbers beside model, data and protocol, for results.json."""
    return {"limit": cfg.limit, "split_by": cfg.split_by}


def headline(mean: Mapping[str, float]) -> str:
    """The numbers that a person looks for first."""
    if "accuracy" in mean:
        return f"accuracy {mean['accuracy']:.1f} %"
    return f"AbsRel {mean['abs_rel']:.4f}, δ1 {mean['delta1']:.4f}"


def run_suite(cfg: DictConfig, ranks: Ranks) -> None:
    """All models on all benchmarks that are on disk; table.csv, table.md and, last, table.json in `cfg.out`.

    Raises:
        UserError: there is nothing to evaluate, a model and a protocol do not fit together, or, once the table of the
            others is written, a model could not be judged on one of the sets.
    """
    if cfg.split_by is not None:
        raise UserError("A suite has the test sets of its table: leave out split_by.")
    require_reader(cfg.labelled, [*named_models(cfg).values()])
    suite = read_suite(cfg.suite)
    data = None if OmegaConf.is_missing(cfg, "data") else cfg.data
    found = find_data(suite, plain(data), cfg.root)
    missing = missing_text(suite, found, cfg.root)
    if missing and ranks.first:
        console.print(missing, soft_wrap=True)
    # All that can be wrong is looked at before the first of many hours.
    protocols = {benchmark: suite.benchmarks[benchmark].protocol for benchmark in found}
    shards = {one: open_data({one: folder}, kind=judge_of(protocols[one]).shards_kind) for one, folder in found.items()}
    options = {"device": cfg.device, "progress": ranks.first}
    models = {name: open_model(source, cfg.labelled, **options) for name, source in named_models(cfg).items()}
    rows = {name: suite.row_for(model.encoder_name, cfg.against) for name, model in models.items()}
    for name, model in models.items():
        for one, protocol in protocols.items():
            about = identity(model, plain(cfg.size) or protocol.size)
            settings = {"protocol": protocol.to_dict(), **settings_of(cfg)}
            refuse_others(Path(cfg.out) / name / one, about, shards[one], settings)
            check_kind(model, protocol, align_metric=cfg.align_metric, name=name)
    refuse_other_table(Path(cfg.out), {(name, one) for name in models for one in protocols})

    entries: list[Entry] = []
    captions: dict[str, str] = {}
    unusable: list[str] = []
    for name, model in models.items():
        results = {}
        for one, protocol in protocols.items():
            try:
                results[one] = run_benchmark(cfg, model, name, shards[one], protocol, Path(cfg.out) / name / one, ranks)
            except UserError as error:  # of all processes, or of the one that writes when the others are done
                unusable.append(f"{name} on {one}: {error}")
                if ranks.first:
                    console.print(f"warning: {unusable[-1]}", style="bold yellow", soft_wrap=True)
        if ranks.first:
            entries += compare(suite, name, rows[name], results)
            captions |= {
                suite.benchmarks[key].title: f"{result['counted']}; {result['caption']}"
                for key, result in results.items()
            }
    if ranks.first:
        write_table(Path(cfg.out), suite, entries, captions, "\n".join(filter(None, (missing, *unusable))))
        if unusable:
            raise UserError(f"The table is written, but not whole: {unusable[0]}")


def refuse_other_table(out: Path, cells: Collection[tuple[str, str]]) -> None:
    """Refuse to replace a table that holds more than the models and benchmarks of this one.

    Raises:
        UserError: it does.
    """
    if not (out / TABLE).exists():
        return
    before = read_json(out / TABLE, keys={"title": str, "cells": list})
    held = {(cell["model"], cell["benchmark"]) for cell in before["cells"] if cell["ours"] is not None}
    if lost := sorted(held - set(cells)):
        model, benchmark = lost[0]
        raise UserError(
            f"{out / TABLE} of {before['title']} holds {model} on {benchmark}, which this table would not; name all "
            "models and test sets together, or choose another out=."
        )


def write_table(out: Path, suite: Suite, entries: list[Entry], captions: Mapping[str, str], missing: str) -> None:
    """The table in four forms; its page links to the pages of the evaluations."""
    pages = dict.fromkeys(f"{entry.model}/{entry.benchmark}/{PAGE}" for entry in entries if entry.ours is not None)
    page = suite_page(suite, entries, [path for path in pages if (out / path).exists()])
    write_bytes(out / PAGE, page.encode())
    write_bytes(out / "table.csv", to_csv(entries).encode())
    write_bytes(out / "table.md", to_markdown(suite, entries, captions, missing).encode())
    content = {"title": suite.title, "url": suite.url, "family": suite.family, "captions": dict(captions)}
    write_json(out / TABLE, {"schema": 1, **content, "cells": [asdict(entry) for entry in entries]})
    console.print(f"{suite.title}: {out / 'table.md'}", soft_wrap=True)


def named_models(cfg: DictConfig) -> dict[str, str]:
    """`models`, or `model` under the name of its folder.

    Raises:
        UserError: both or neither were given, or `models` is no mapping of names to models.
    """
    alone = None if OmegaConf.is_missing(cfg, "model") else str(cfg.model)
    if (alone is None) == (cfg.models is None):
        raise UserError('Expected either model=... or models="{NAME: ..., NAME: ...}" for a suite.')
    if alone is not None:
        return {name_of(alone): alone}
    models = plain(cfg.models)
    if not isinstance(models, dict) or not models or not all(isinstance(source, str) for source in models.values()):
        raise UserError(f'Expected models="{{NAME: what model= takes, ...}}", but got {models!r}.')
    if wrong := [name for name in map(str, models) if Path(name).name != name or name in ("", "..")]:
        raise UserError(f"Expected names of models that can be folders, but got {', '.join(map(repr, wrong))}.")
    return {str(name): source for name, source in models.items()}
