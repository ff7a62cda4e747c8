import json

import pytest
from networks import build

from depth_anything_train.inference.depth_anything import DepthAnything


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a relative model with random weights that calls itself a ViT-S, of which the papers have a row."""
    folder = tmp_path_factory.mktemp("models") / "ours"
    DepthAnything(build(name="vits", image_size=28), size=28, device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Folder of a metric model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "metric"
    metres = build(kind="metric", max_depth_m=20.0, image_size=28)
    DepthAnything(metres, size=28, device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(monkeypatch):
    """Run `depth-anything evaluate key=value ...` in this process."""
    from depth_anything_train.evaluate import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["depth-anything", *map(str, arguments)])
        main()

    return run


@pytest.fixture
def prepare(monkeypatch):
    """Run `depth-anything prepare key=value ...` in this process."""
    from data_engine.prepare import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["depth-anything", "workers=0", *map(str, arguments)])
        main()

    return run


@pytest.fixture
def read():
    return lambda path: json.loads(path.read_text())
