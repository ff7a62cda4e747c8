"""SegFormer through transformers' own code, tiny and with random weights, from a folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segformers import NAMES, save

from data_engine.ingest.sky_segmenter import SkySegmenter, sky_class
from depth_anything_train.runtime import UserError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("segformer"))


def image(height: int = 48, width: int = 80) -> Any:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def test_probability__is_that_of_transformers_own_pipeline(folder: Path) -> None:
    """Theirs resizes logits to the image; at the network's own size both must be the softmax's sky channel."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**processor(images=image(), return_tensors="pt")).logits
    ours = SkySegmenter.from_pretrained(str(folder)).probability(image())
    assert ours.shape == (16, 16)  # a quarter of its own input size, whatever the image's
    np.testing.assert_allclose(ours, logits.softmax(1)[0, 3].numpy(), atol=1e-6)


def test_probability__leaves_the_number_of_threads_as_it_was(folder: Path) -> None:
    before = torch.get_num_threads()
    SkySegmenter.from_pretrained(str(folder)).probability(image())
    assert torch.get_num_threads() == before


def test_from_pretrained__a_revision_of_the_hub_does_not_disturb_a_folder(folder: Path) -> None:
    one, other = (SkySegmenter.from_pretrained(str(folder), revision=r) for r in (None, "refs/pr/3"))
    assert one.hash == other.hash


def test_from_pretrained__of_a_name_the_hub_is_asked_once_and_its_cache_will_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--somebody--sky"
    (cached / "refs" / "refs" / "pr").mkdir(parents=True)
    (cached / "refs" / "refs" / "pr" / "3").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    named = SkySegmenter.from_pretrained("somebody/sky", revision="refs/pr/3")
    assert named.hash == SkySegmenter.from_pretrained(str(folder)).hash
    # As transformers would, for every file five times.
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(UserError, match=r"Expected a SegFormer in a folder somebody/nothing.*the hub gave"):
        SkySegmenter.from_pretrained("somebody/nothing")


def test_from_pretrained__what_is_no_segformer_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected a SegFormer"):
        SkySegmenter.from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"but got \./nowhere, which is no folder"):  # and no name to ask the hub for
        SkySegmenter.from_pretrained("./nowhere")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):  # a pickle is not looked at
        SkySegmenter.from_pretrained(str(tmp_path))


def test_from_pretrained__missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decode_head.classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"SegFormer .* is incomplete: 1 weights .* decode_head\.classifier\.weight"):
        SkySegmenter.from_pretrained(str(tmp_path))


def test_sky_class__is_found_by_its_name_and_not_by_part_of_one() -> None:
    assert sky_class(NAMES) == 3
    assert sky_class({0: "road", 10: "Sky"}) == 10
    with pytest.raises(UserError, match="a class sky"):
        sky_class({0: "wall", 1: "skyscraper"})


def test_sky_class__numbers_alone_are_those_of_ade20k() -> None:
    assert sky_class({number: f"LABEL_{number}" for number in range(150)}) == 2
    with pytest.raises(UserError, match="a class sky"):
        sky_class({number: f"LABEL_{number}" for number in range(19)})
