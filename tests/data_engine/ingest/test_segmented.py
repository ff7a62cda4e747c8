from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_sets import Prepared, ramp, write_image, write_png

from data_engine.ingest.ade20k import Ade20k
from data_engine.ingest.cityscapes import Cityscapes
from data_engine.verify import main as verify
from depth_anything_train.data.schema import CLASSES
from depth_anything_train.runtime import UserError

# Name, label id and train id of every class of Cityscapes, from the owners' list of labels.
LABELS = """
unlabeled 0 255, ego vehicle 1 255, rectification border 2 255, out of roi 3 255, static 4 255, dynamic 5 255,
ground 6 255, road 7 0, sidewalk 8 1, parking 9 255, rail track 10 255, building 11 2, wall 12 3, fence 13 4,
guard rail 14 255, bridge 15 255, tunnel 16 255, pole 17 5, polegroup 18 255, traffic light 19 6, traffic sign 20 7,
vegetation 21 8, terrain 22 9, sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14, bus 28 15, caravan 29 255,
trailer 30 255, train 31 16, motorcycle 32 17, bicycle 33 18
"""


def codes(values: range, height: int = 6, width: int = 8) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (height, width))


def write_ade20k(root: Path, numbers: tuple[int, ...] = (1, 2), split: str = "training", short: str = "train") -> Path:
    for number in numbers:
        name = f"ADE_{short}_{number:08d}"
        write_image(root / "images" / split / f"{name}.jpg")
        write_png(root / "annotations" / split / f"{name}.png", codes(range(number, number + 48)))
    return root


def write_cityscapes(root: Path, frame: int = 19, split: str = "train", stored: np.ndarray | None = None) -> Path:
    name = f"aachen_000000_{frame:06d}"
    write_image(root / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png")
    write_png(
        root / "gtFine" / split / "aachen" / f"{name}_gtFine_labelIds.png",
        codes(range(34)) if stored is None else stored,
    )
    write_png(root / "gtFine" / split / "aachen" / f"{name}_gtFine_instanceIds.png", ramp(1, 9).astype(np.uint16))
    return root


def classes(prepared: Prepared, key: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(prepared.samples[key].members[CLASSES], np.uint8), cv2.IMREAD_UNCHANGED)


def test_ade20k__codes_count_from_1_and_0_is_no_class(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_ade20k(tmp_path / "ade", (0, 110))
    write_ade20k(root, (5,), "validation", "val")
    prepared = prepare_set("ade20k", root, "max_bad_share=0.9")
    assert prepared.info["kind"] == "segmented" and len(prepared.info["classes"]) == 150
    assert list(prepared.samples) == ["ADE_train_00000000"], "the other one holds codes above 150"
    assert prepared.info["drops"] == {"unknown_class": 1}
    found = classes(prepared, "ADE_train_00000000").ravel()
    assert found[0] == 255 and found[1:48].tolist() == list(range(47))
    image = root / "images/training/ADE_train_00000000.jpg"
    assert prepared.samples["ADE_train_00000000"].members["jpg"] == image.read_bytes()
    assert list(prepare_set("ade20k", root, "dataset.part=val").samples) == ["ADE_val_00000005"]


def test_ade20k__names_are_150_different_ones() -> None:
    names = Ade20k.CLASS_NAMES
    assert len(set(names)) == 150 and names[0] == "wall" and names[2] == "sky" and names[149] == "flag"


def test_cityscapes__label_ids_become_train_ids(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    rows = [entry.split() for entry in LABELS.replace("\n", " ").split(",")]
    expected = {int(row[-2]): int(row[-1]) for row in rows}
    prepared = prepare_set("cityscapes", write_cityscapes(tmp_path / "cityscapes"))
    stored = codes(range(34)).ravel()
    found = classes(prepared, "aachen_aachen_000000_000019").ravel()
    assert found.tolist() == [expected[code] for code in stored.tolist()]
    named = {int(row[-1]): " ".join(row[:-2]) for row in rows if row[-1] != "255"}
    assert prepared.info["classes"] == [named[number] for number in range(19)]


def test_cityscapes__what_cannot_be_used_is_dropped_and_counted(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    root = write_cityscapes(tmp_path / "cityscapes")
    write_cityscapes(root, 20, stored=np.zeros((6, 8), np.uint8))
    write_cityscapes(root, 21, stored=codes(range(34), 3, 4))
    write_cityscapes(root, 22, stored=np.full((6, 8), 99, np.uint8))
    write_image(root / "leftImg8bit/train/aachen/aachen_000000_000023_leftImg8bit.png")
    prepared = prepare_set("cityscapes", root, "max_bad_share=0.9")
    assert len(prepared.samples) == 1
    assert prepared.info["drops"] == dict.fromkeys(
        ("label_size", "missing_label", "no_valid_pixel", "unknown_class"), 1
    )


def test_layout__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root/images/training"):
        Ade20k(str(tmp_path), part="train").items()
    with pytest.raises(UserError, match="part=train or val of cityscapes"):
        Cityscapes(str(tmp_path), part="test").items()


def test_verify__reads_classes_draws_them_and_finds_damage(
    tmp_path: Path, prepare_set: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_set("ade20k", write_ade20k(tmp_path / "ade"))
    shards, sheet = tmp_path / "shards-0", tmp_path / "sheet.png"
    monkeypatch.setattr("sys.argv", ["verify", f"shards={shards}", f"sheet={sheet}", "workers=0"])
    verify()
    assert cv2.imread(str(sheet)).std() > 10
    monkeypatch.setattr("sys.argv", ["verify", f"shards={shards}", f"page={tmp_path / 'page.html'}", "workers=0"])
    with pytest.raises(SystemExit):
        verify()
    tar = shards / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"XXXX"))
    monkeypatch.setattr("sys.argv", ["verify", f"shards={shards}", "workers=0"])
    with pytest.raises(SystemExit) as caught:
        verify()
    assert caught.value.code == 1
