import numpy as np
import PIL.Image
import pytest
import torch
from networks import build
from scenes import encode, scene

from depth_anything_train.inference import photos as module
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.midas import Midas
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.photos import predict_photos
from depth_anything_train.inference.png16 import to_16bit
from depth_anything_train.inference.sources import find_source
from depth_anything_train.runtime import UserError


class Counting(DepthAnything):
    """Notes how many images go through the network together."""

    def infer(self, image):
        self.shapes = [*getattr(self, "shapes", []), tuple(image.shape)]
        return super().infer(image)


@pytest.fixture
def model():
    return Counting(build(), size=28, device="cpu")


def write_photos(folder, sizes):
    folder.mkdir(exist_ok=True)
    for number, (height, width) in enumerate(sizes):
        (folder / f"{number}.png").write_bytes(encode(scene(number, height, width)[0], "png"))
    return find_source(str(folder))


def test_predict_photos__those_that_look_alike_to_the_network_go_through_together(model, tmp_path):
    # 40 x 60, 80 x 120 and 41 x 60 all become 28 x 42; 60 x 40 and 50 x 50 do not.
    photos = write_photos(tmp_path / "photos", [(40, 60), (60, 40), (80, 120), (50, 50), (41, 60), (40, 60), (40, 60)])
    assert list(predict_photos(model, photos, tmp_path / "out", Outputs(("npy",)), batch_size=3)) == [None] * 7
    assert sorted(model.shapes) == sorted([(3, 3, 28, 42), (2, 3, 28, 42), (1, 3, 42, 28), (1, 3, 28, 28)])


def test_predict_photos__give_what_each_gives_alone(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60), (60, 40), (80, 120), (41, 60)])
    assert not any(predict_photos(model, photos, tmp_path / "out", Outputs(("npy",))))
    for file, name in photos:
        alone = model.predict(file)
        assert np.load(tmp_path / "out" / f"{name}.npy") == pytest.approx(alone.values, abs=1e-5)


def test_predict_photos__of_a_model_that_sees_far_have_the_steps_of_kitti(tmp_path):
    far = DepthAnything(build(kind="metric", max_depth_m=80.0), size=28, device="cpu")
    photos = write_photos(tmp_path / "photos", [(40, 60)])
    assert not any(predict_photos(far, photos, tmp_path / "out", Outputs(("16bit",))))
    with PIL.Image.open(tmp_path / "out" / "0_16bit.png") as png:
        assert png.text["scale"] == "0.00390625"
        assert (np.asarray(png) == to_16bit(far.predict(tmp_path / "photos" / "0.png"))).all()


def test_predict_photos__what_cannot_be_used_is_named_and_the_rest_is_there(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60)] * 3)
    (tmp_path / "photos" / "0.png").write_bytes(b"no image")
    strip = encode(np.zeros((1, 60_000, 3), np.uint8), "png")
    (tmp_path / "photos" / "2.png").write_bytes(strip)
    problems = [problem for problem in predict_photos(model, photos, tmp_path / "out", Outputs()) if problem]
    assert len(problems) == 2
    assert "0.png: Expected a JPEG" in problems[0] and "2.png" in problems[1] and "less extreme" in problems[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.npy", "1_16bit.png", "1_color.png"]


def test_predict_photos__a_file_that_is_gone_is_named(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60), (40, 60)])
    (tmp_path / "photos" / "0.png").unlink()
    problems = list(predict_photos(model, photos, tmp_path / "out", Outputs()))
    assert sorted(problem is None for problem in problems) == [False, True]


def test_predict_photos__a_size_that_the_network_cannot_take_stops_before_the_first(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60)])
    with pytest.raises(UserError, match="at least one patch"):
        list(predict_photos(model, photos, tmp_path / "out", Outputs(), size=13))


def test_predict_photos__a_full_disk_stops(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60)] * 3)
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        list(predict_photos(model, photos, tmp_path / "out", Outputs()))


def test_predict_photos__all_of_one_shape_wait_no_longer_than_memory_allows(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WAITING_BYTES", 60_000)
    photos = write_photos(tmp_path / "photos", [(40, 60)] * 5)
    assert not any(predict_photos(model, photos, tmp_path / "out", Outputs(("npy",)), batch_size=100))
    assert [shape[0] for shape in model.shapes] == [3, 2]  # 7,200 bytes each, and 14,112 prepared


def test_predict_photos__a_name_too_long_for_its_outputs_is_named_and_the_rest_is_there(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60)] * 3)
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / f"{'x' * 215}.png")
    (tmp_path / "photos" / "1.png").rename(tmp_path / "photos" / f"{'y' * 251}.png")
    photos = find_source(tmp_path / "photos")
    problems = [problem for problem in predict_photos(model, photos, tmp_path / "out", Outputs()) if problem]
    assert len(problems) == 1 and "yyy.png: Expected names of at most 255 bytes, but yyy" in problems[0]
    written = [path.name[0] for path in (tmp_path / "out").iterdir()]
    assert written.count("x") == written.count("2") > 1 and written.count("y") == 0


def test_predict_photos__of_a_model_that_states_nan_are_named(model, tmp_path):
    photos = write_photos(tmp_path / "photos", [(40, 60)])
    model.infer = lambda image: torch.full((len(image), 1, *image.shape[-2:]), torch.nan)
    (problem,) = predict_photos(model, photos, tmp_path / "out", Outputs())
    assert "Expected a finite prediction" in problem and not (tmp_path / "out").exists()


def test_predict_photos__midas_answers_the_same_call(tmp_path):
    class Ramp(Midas):
        """Without a network: all that is asked of MiDaS."""

        def __init__(self):
            self.device = torch.device("cpu")

        def forward(self, images, size=None, focals_px=None):
            if images[0].shape[1] == 120:
                raise UserError("too wide")
            assert len({image.shape for image in images}) == 1
            return [image[..., 0].astype(np.float32) for image in images]

    photos = write_photos(tmp_path / "photos", [(40, 60), (60, 40), (40, 60), (80, 120)])
    problems = list(predict_photos(Ramp(), photos, tmp_path / "out", Outputs(("npy",))))
    assert [problem for problem in problems if problem] == [f"{tmp_path / 'photos' / '3.png'}: too wide"]
    assert len(problems) == 4
    assert np.load(tmp_path / "out" / "1.npy") == pytest.approx(scene(1, 60, 40)[0][..., 0])
