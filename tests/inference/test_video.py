import numpy as np
import pytest
from films import read_film, write_film
from networks import build

from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.sources import Video
from depth_anything_train.inference.video import predict_video
from depth_anything_train.inference.video_files import VideoReader
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def model():
    return DepthAnything(build(), size=28, device="cpu")


def test_predict_video__writes_what_was_chosen_at_the_size_and_times_of_the_frames(model, tmp_path):
    source = write_film(tmp_path / "film.mp4", 10)
    outputs = Outputs(("color", "control", "side_by_side", "npy"))
    paths = predict_video(model, source, tmp_path / "out" / "film", outputs=outputs, batch_size=4)
    names = ["film_color.mp4", "film_control.mp4", "film_side_by_side.mp4", "film.npy"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    frames, times, sound = read_film(source)
    for path, width in zip(paths, (64, 64, 128), strict=False):
        images, new_times, new_sound = read_film(path)
        assert images.shape == (10, 48, width, 3)
        assert new_times == pytest.approx(times) and new_sound == sound
    assert np.abs(images[:, :, :64].astype(int) - frames).mean() < 5  # the photograph is on the left
    assert np.ptp(read_film(paths[1])[0].astype(int), axis=-1).max() <= 4  # the control map is grey


def test_predict_video__array_holds_what_the_model_states(model, tmp_path):
    source = write_film(tmp_path / "film.mp4", 5)
    (path,) = predict_video(model, source, tmp_path / "film", outputs=Outputs(("npy",)), temporal=False, batch_size=2)
    values = np.load(path, mmap_mode="r")
    frames = read_film(source)[0]
    assert values.shape == (5, 28, 42) and values.dtype == np.float32
    assert values == pytest.approx(np.stack(model.forward(list(frames))), abs=1e-5)


def test_predict_video__same_outcome_however_many_frames_go_together(model, tmp_path):
    source = write_film(tmp_path / "film.mp4", 7)
    arrays = [
        np.load(predict_video(model, source, tmp_path / str(size), outputs=Outputs(("npy",)), batch_size=size)[0])
        for size in (1, 3)
    ]
    assert arrays[0] == pytest.approx(arrays[1], abs=1e-4)


def test_predict_video__metres_are_written_as_they_are(tmp_path):
    metric = DepthAnything(build(kind="metric", max_depth_m=20.0), size=28, device="cpu")
    source = write_film(tmp_path / "film.mp4", 3)
    (path,) = predict_video(metric, source, tmp_path / "film", outputs=Outputs(("npy",)))
    assert np.load(path) == pytest.approx(np.stack(metric.forward(list(read_film(source)[0]))), abs=1e-5)


def test_predict_video__stops_at_the_limit(model, tmp_path):
    told = []
    (path,) = predict_video(
        model,
        write_film(tmp_path / "film.mp4"),
        tmp_path / "film",
        batch_size=4,
        limit=6,
        on_frame=lambda done, total: told.append((done, total)),
    )
    assert len(read_film(path)[0]) == 6
    assert told == [(4, 12), (6, 12)]


@pytest.mark.parametrize("number", [{"batch_size": 0}, {"limit": 0}, {"limit": -1}])
def test_predict_video__a_number_below_one_is_refused_and_replaces_nothing(number, model, tmp_path):
    source = write_film(tmp_path / "film.mp4")
    (tmp_path / "x_color.mp4").write_bytes(b"before")
    with pytest.raises(UserError, match=f"Expected {[*number][0]} to be a whole number of at least 1"):
        predict_video(model, source, tmp_path / "x", **number)
    assert (tmp_path / "x_color.mp4").read_bytes() == b"before"


def test_predict_video__nothing_is_visible_before_the_end_nor_after_an_error(model, tmp_path):
    source = write_film(tmp_path / "film.mp4")

    def stop(done, total):
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["film.mp4"]
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(model, source, tmp_path / "film", outputs=Outputs(("color", "npy")), batch_size=4, on_frame=stop)
    assert list(tmp_path.iterdir()) == [source]


def test_predict_video__ctrl_c_ends_a_stream_and_keeps_what_there_is(model, tmp_path):
    source = write_film(tmp_path / "film.mp4")

    def stop(done, total):
        if done > 4:
            raise KeyboardInterrupt

    with VideoReader(Video(str(source), "film", live=True)) as reader:
        (path,) = predict_video(model, reader, tmp_path / "live", batch_size=4, on_frame=stop)
    assert len(read_film(path)[0]) == 8


def test_predict_video__a_name_that_leaves_no_room_for_an_ending_is_refused_before_the_first_frame(tmp_path):
    source = write_film(tmp_path / "film.mp4", 2)
    with pytest.raises(UserError, match="Expected names of at most 255 bytes, but xxx"):
        predict_video(None, source, tmp_path / "out" / ("x" * 250))
    assert not (tmp_path / "out").exists()


def test_predict_video__refuses_what_is_for_photographs(model, tmp_path):
    with pytest.raises(UserError, match="got 16bit"):
        predict_video(model, "film.mp4", tmp_path / "film", outputs=Outputs(("color", "16bit")))
    with pytest.raises(UserError, match="leave pointcloud out"):
        predict_video(model, "film.mp4", tmp_path / "film", outputs=Outputs(("color",), pointcloud="ply"))
    assert not list(tmp_path.iterdir())
