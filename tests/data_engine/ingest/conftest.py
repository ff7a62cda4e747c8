from __future__ import annotations

import json
from pathlib import Path

import pytest
from raw_sets import Prepared, PrepareSet

from data_engine.prepare import main
from depth_anything_train.data.shards import ShardFolder


@pytest.fixture
def prepare_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareSet:
    """Run `depth-anything prepare dataset=NAME root=DIR ...` and read its shards back."""

    def run(name: str, root: Path, *overrides: str) -> Prepared:
        out = tmp_path / f"shards-{len(list(tmp_path.glob('shards-*')))}"
        command = ["depth-anything", f"dataset={name}", f"root={root}", f"out={out}", "workers=0", *overrides]
        monkeypatch.setattr("sys.argv", command)
        main()
        samples = {record.key: record for record in ShardFolder(out)}
        return Prepared(json.loads((out / "dataset.json").read_text()), samples)

    return run
