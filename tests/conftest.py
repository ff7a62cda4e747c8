"""Small real things that many tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scenes import write_shards

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(scope="session")
def samples_folder() -> Path:
    """The folder of real samples; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("DEPTH_ANYTHING_SAMPLES", Path(__file__).parents[2] / "shared" / "samples"))
    if not (folder / "index.csv").exists():
        pytest.skip("no folder of real samples; name it with DEPTH_ANYTHING_SAMPLES")
    return folder


@pytest.fixture
def labelled_shards(tmp_path: Path) -> Path:
    """Eleven labelled scenes in two shards."""
    return write_shards(tmp_path / "labelled", "labelled")


@pytest.fixture
def image_shards(tmp_path: Path) -> Path:
    """Eleven other scenes in two shards, without labels."""
    return write_shards(tmp_path / "images", "images", first=100)
