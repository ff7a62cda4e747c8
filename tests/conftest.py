"""Small real things that many tests need."""

from __future__ import annotations

import os
import sys

# Processes beside each other take one core each, and what they start as well: sums of several threads are in another
# order, and weights are compared bit by bit. torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# And this at the first product on a GPU, which may be in a test before one that trains deterministically.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import write_shards
from stores import S3, s3_store

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(autouse=True)
def ordinary_torch() -> Iterator[None]:
    """A training in this process leaves torch deterministic; the next test starts without."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].use_deterministic_algorithms(False)


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of remote files of this test; failures are tried again at once."""
    from depth_anything_train.data import file_cache, store

    monkeypatch.setenv(file_cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(store, "FIRST_DELAY_S", 0.01)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 store with its keys in the environment; one for all tests, because fsspec keeps its connection."""
    with pytest.MonkeyPatch.context() as environment, s3_store(environment) as store:
        yield store
