"""The files that an evaluation leaves: per image, per test set, and everything that decided the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import atomic_writer, read_json, write_bytes, write_json
from depth_anything_train.metrics.protocol import deciding
from depth_anything_train.metrics.results import RESULTS_FILE, Results, other_setup, to_csv, to_markdown, to_rows
from depth_anything_train.metrics.units import unit_warning
from depth_anything_train.runtime import UserError, fingerprint, provenance

PAGE = "page.html"


def refuse_others(
    folder: Path, model: Mapping[str, Any], data: Mapping[str, ShardFolder], settings: Mapping[str, Any]
) -> None:
    """Refuse to replace results in the folder that belong to something else.

    Args:
        folder: for the results.
        model: `hash`, and `setup` and `size` where there are any, as in results.json.
        data: shards by name.
        settings: what else decides the numbers, by its name in results.json: plain JSON. Older results lack some of
            them, and count as made without.

    Raises:
        UserError: they are of another model, of other data or by other settings.
    """
    if not (folder / RESULTS_FILE).exists():
        return
    found = read_json(folder / RESULTS_FILE, keys={"model": dict, "data": dict})
    theirs = found["model"]
    told = {
        "hash": f"another model ({theirs.get('name')})",
        "size": f"another input size ({theirs.get('size') or 'its own'})",
    }
    differing = [told[key] for key, value in model.items() if key in told and theirs.get(key) != value]
    if theirs.get("hash") == model["hash"] and (other := other_setup(theirs, model.get("setup", {}))):
        differing.append(other)
    if found["data"] != describe_data(data):
        differing.append(f"other data ({', '.join(found['data'])})")
    for key, value in settings.items():
        if _decided_by(key, found.get(key)) != _decided_by(key, value):
            differing.append(f"another {key} ({_shown(key, found)})")
    if differing:
        raise UserError(f"{folder} holds results of {' and '.join(differing)}; choose another out= or delete it.")


def _decided_by(key: str, value: Any) -> str:
    return fingerprint(deciding(value) if key == "protocol" and isinstance(value, dict) else value)


def _shown(key: str, found: Mapping[str, Any]) -> str:
    value = found.get(key)
    return str((value.get("name") or found.get("benchmark")) if isinstance(value, dict) else value or "none")


def write_results(
    folder: Path,
    results: Results,
    model: Mapping[str, Any],
    data: Mapping[str, ShardFolder],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write results.csv (per image; results.parquet beside it where pyarrow is), results.md and, last, results.json.

    Args:
        folder: for the results.
        results: all of them.
        model: `name`, `hash`, `setup` and `size`.
        data: shards by name.
        settings: what else decided the numbers, by name, beside the protocol.

    Returns:
        The content of results.json.
    """
    write_bytes(folder / "results.csv", to_csv(results).encode())
    if find_spec("pyarrow"):
        _write_parquet(folder / "results.parquet", results)
    write_bytes(folder / "results.md", to_markdown(results, model["name"]).encode())
    content = to_json(results, model, data, settings)
    write_json(folder / RESULTS_FILE, content)
    return content


def to_json(
    results: Results, model: Mapping[str, Any], data: Mapping[str, ShardFolder], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Means, their intervals, the protocol with its hash, the settings, and where the numbers come from."""
    group_intervals, mean_intervals = results.intervals()
    protocol = results.protocol.to_dict()
    return {
        "schema": 1,
        "model": dict(model),
        "data": describe_data(data),
        "protocol": protocol,
        "protocol_hash": fingerprint(deciding(protocol)),
        "caption": results.caption,
        **settings,
        "groups": results.groups(),
        "mean": results.mean(),
        "intervals": {"groups": group_intervals, "mean": mean_intervals},
        "images": len(results.images),
        "counted": results.counted,
        "images_with": results.partial,
        "skipped": dict(results.skipped),
        "unit_warning": unit_warning(results.ratios),
        "provenance": provenance(),
    }


def describe_data(data: Mapping[str, ShardFolder]) -> dict[str, Any]:
    """What results.json says about the data."""
    return {name: {"hash": data_hash(shards), "samples": len(shards)} for name, shards in data.items()}


def data_hash(shards: ShardFolder) -> str:
    """Names the content of a shard folder: equal samples in equal shards, equal hash."""
    return fingerprint([shards.digest(number) for number in range(len(shards.shards))])


def _write_parquet(path: Path, results: Results) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(to_rows(results))
    with atomic_writer(path) as file:
        parquet.write_table(table, file)
