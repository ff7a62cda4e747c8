import cv2
import numpy as np
import pytest
import torch
from scenes import encode, scene

from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.outputs import to_16bit
from depth_anything_train.inference.predict import find_images, main
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.runtime import UserError


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "more/b.PNG", "more/a.webp")):
        (tmp_path / "photos" / name).write_bytes(encode(scene(number)[0], name[-3:].lower().replace("ebp", "webp")))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def predict(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = build_depth_model(
        name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8] * 4, image_size=28
    )
    DepthAnything(network, size=28, device="cpu").save_pretrained(tmp_path / "model")

    def call(*arguments):
        command = ["depth-anything", f"model={tmp_path / 'model'}", f"out={tmp_path / 'out'}", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        main()
        return tmp_path / "out"

    return call


def test_predict__writes_colour_16bit_and_array_for_every_image_of_a_folder(predict, photos):
    out = predict(f"source={photos}")
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.npy")) == ["a.npy", "more/a.npy", "more/b.npy"]
    array = np.load(out / "more" / "b.npy")
    assert array.shape == scene(1)[0].shape[:2] and array.dtype == np.float32
    levels = cv2.imread(str(out / "more" / "b_16bit.png"), cv2.IMREAD_UNCHANGED)
    assert levels.dtype == np.uint16 and np.ptp(levels) == 65535
    assert cv2.imread(str(out / "more" / "b_color.png")).shape == (*array.shape, 3)


def test_predict__names_what_it_cannot_decode_and_does_the_rest(predict, photos, capsys):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={photos}")
    assert exit_status.value.code == 1
    messages = capsys.readouterr().err
    assert "cut.jpg" in messages and "3 of 4" in messages
    assert len(list(photos.parent.glob("out/**/*.npy"))) == 3


def test_find_images__takes_an_image_a_folder_or_a_pattern(photos):
    assert [str(name) for _, name in find_images(str(photos / "a.jpg"))] == ["a"]
    assert len(find_images(str(photos))) == 3
    assert [file.name for file, _ in find_images(str(photos / "more" / "*"))] == ["a.webp", "b.PNG"]


def test_find_images__refuses_nothing_and_names_that_would_collide(photos):
    with pytest.raises(UserError, match="matches no image"):
        find_images(str(photos / "*.gif"))
    with pytest.raises(UserError, match="share the name"):
        find_images(str(photos / "**" / "a.*"))


def test_to_16bit__is_millimetres_of_a_metric_model():
    assert to_16bit(Prediction(np.array([[1.5, 99.0]], np.float32), "metric")).tolist() == [[1500, 65535]]


def test_to_16bit__of_a_constant_disparity_is_zero():
    assert to_16bit(Prediction(np.full((2, 2), 3.0, np.float32))).max() == 0
