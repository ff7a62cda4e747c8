import math

import cv2
import numpy as np
import PIL.Image
import pytest
from films import damage, read_film, trimmed, write_film
from networks import build
from scenes import encode, scene

from depth_anything_train.composition import compose
from depth_anything_train.inference import predict as module
from depth_anything_train.inference.calibration import calibrate
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.exif import FOCAL_35MM, PHOTOGRAPH, stated_focal
from depth_anything_train.inference.pointcloud import from_prediction
from depth_anything_train.inference.predict import main
from depth_anything_train.inference.prediction import Prediction, load_image
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
    DepthAnything(build(), size=28, device="cpu").save_pretrained(tmp_path / "model")

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
    assert len([path for path in out.rglob("*") if path.is_file()]) == 9


def test_predict__continues_where_it_was_stopped_if_asked(predict, photos, capsys):
    out = predict(f"source={photos}")
    (out / "more" / "a_16bit.png").unlink()
    (out / "more" / f".a_16bit.png.{0:032x}.tmp").write_bytes(b"of one that was killed")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert predict(f"source={photos}", "skip_existing=true") == out
    assert "2 of 3 images were predicted before" in capsys.readouterr().err
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [out / "more" / "a.npy"]
    assert len([path for path in out.rglob("*") if path.is_file()]) == 9
    predict(f"source={photos}", "skip_existing=true", "outputs=[npy]", "model=nowhere")  # nothing is left for a model


def test_predict__writes_what_was_chosen(predict, photos):
    out = predict(f"source={photos / 'a.jpg'}", "outputs=[control]", "pointcloud=glb", "fov_deg=70", "percentile=2")
    assert sorted(path.name for path in out.iterdir()) == ["a.glb", "a_control.png"]


def test_predict__measured_points_bring_their_photographs_to_metres(predict, photos, tmp_path, capsys):
    (tmp_path / "points.csv").write_text("photo,x,y,metres\na.jpg,3,4,2.0\na.jpg,50,30,2.5\na.jpg,20,40,9\n")
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={photos}", f"measured={tmp_path / 'points.csv'}", "outputs=[npy,16bit]")
    assert exit_status.value.code == 1
    told = capsys.readouterr().err
    assert told.count("no point of it was measured") == 2 and "metres by 3 measured points" in told
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.npy", "a_16bit.png"]
    prediction = DepthAnything.from_pretrained(tmp_path / "model", device="cpu").predict(photos / "a.jpg")
    points = np.array([[3, 4, 2.0], [50, 30, 2.5], [20, 40, 9.0]])
    expected = calibrate(prediction, points)(prediction).depth_m
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npy"), expected, rtol=1e-4)
    with PIL.Image.open(tmp_path / "out" / "a_16bit.png") as png:
        assert png.text["unit"] == "m"


def test_predict__the_focal_length_that_a_photograph_states_places_its_points(predict, photos, tmp_path):
    exif = PIL.Image.Exif()
    exif.get_ifd(PHOTOGRAPH)[FOCAL_35MM] = 20
    plain, stated = (photos / "a.jpg").read_bytes(), exif.tobytes()
    segment = b"\xff\xe1" + (len(stated) + 2).to_bytes(2, "big") + stated
    (photos / "wide.jpg").write_bytes(plain[:2] + segment + plain[2:])  # the same pixels
    written = {}
    for name, given in {"wide": [], "a": [], "asked": ["fov_deg=60"]}.items():
        source = photos / f"{'wide' if name == 'asked' else name}.jpg"
        out = predict(f"source={source}", "outputs=[npy]", "pointcloud=ply", *given)
        written[name] = (out / f"{source.stem}.ply").read_bytes()
    assert written["asked"] == written["a"] != written["wide"]  # 60 degrees, unless the photograph states another
    pixels, prediction = load_image(photos / "a.jpg"), Prediction(np.load(out / "wide.npy"))
    expected = from_prediction(pixels, prediction, focal_px=stated_focal(photos / "wide.jpg"))
    assert written["wide"] == expected.encode("ply")


def test_predict__a_canonical_camera_takes_its_focal_length_from_the_field_of_view(predict, photos, tmp_path):
    model = DepthAnything(build(kind="metric", max_depth_m=20.0, canonical_focal_px=50.0), size=28, device="cpu")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={photos}")
    assert exit_status.value.code == 1 and not list(tmp_path.glob("out/*"))
    width = max(scene(0)[0].shape)
    for focal_px, given in ((width, f"fov_deg={math.degrees(2 * math.atan(0.5))}"), (80.0, "intrinsics=[160,40,9,9]")):
        out = predict(f"source={photos / 'a.jpg'}", given)
        expected = model.predict(photos / "a.jpg", focal_px=focal_px).depth_m
        np.testing.assert_allclose(np.load(out / "a.npy"), expected, rtol=1e-5)


def test_predict__runs_twice_into_a_folder_among_the_photographs(predict, photos):
    for _ in range(2):
        predict(f"source={photos}", f"out={photos / 'out'}")
    assert len(list(photos.rglob("*.npy"))) == 3


def test_predict__names_what_it_cannot_decode_and_does_the_rest(predict, photos, capsys):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={photos}")
    assert exit_status.value.code == 1
    messages = capsys.readouterr().err
    assert "cut.jpg" in messages and "3 of 4" in messages
    assert len(list(photos.parent.glob("out/**/*.npy"))) == 3


def test_predict__a_video_becomes_a_video(predict, tmp_path):
    out = predict(f"source={write_film(tmp_path / 'film.mp4', 6)}", "limit=5")
    assert [path.name for path in out.iterdir()] == ["film_color.mp4"]
    assert len(read_film(out / "film_color.mp4")[0]) == 5


def test_predict__names_a_video_that_is_damaged_and_does_the_rest(predict, tmp_path, capsys):
    film = write_film(tmp_path / "film.mp4", 60)
    damage(film, 30)
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={film}")
    assert exit_status.value.code == 1
    assert "1 parts of" in capsys.readouterr().err
    assert len(read_film(tmp_path / "out" / "film_color.mp4")[0]) > 50


@pytest.mark.parametrize(("ending", "audio"), [("mkv", "aac"), ("avi", None), ("flv", None)])
def test_predict__a_film_that_is_cut_off_is_named_and_what_is_there_is_done(predict, tmp_path, capsys, ending, audio):
    film = write_film(tmp_path / f"film.{ending}", 60, height=240, width=320, audio=audio)
    predict(f"source={film}")
    assert "skipped" not in capsys.readouterr().err
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with pytest.raises(SystemExit) as exit_status:
        predict(f"source={film}")
    frames = len(read_film(tmp_path / "out" / "film_color.mp4")[0])
    assert exit_status.value.code == 1 and 0 < frames < 50
    assert f"skipped the end of {film}: it breaks off " in capsys.readouterr().err
    predict(f"source={film}", "limit=1")


def test_predict__a_whole_film_of_uneven_length_breaks_off_nowhere(predict, tmp_path, capsys):
    times = [*range(4), *(4 + number / 50 for number in range(30))]
    films = [
        write_film(tmp_path / "uneven.mkv", len(times), times=times, audio=None),
        write_film(tmp_path / "silent_end.mkv", 10, sound_s=5.0),
        write_film(tmp_path / "late.mkv", 40, times=[10 + number / 20 for number in range(40)], audio=None),
        trimmed(write_film(tmp_path / "film.mp4", 50, audio=None), tmp_path / "trimmed.mp4", seconds=1.2),
    ]
    for film in films:
        predict(f"source={film}")
    assert "skipped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=gone"], "matches none"),
        (["source=photos", "limit=2"], "Expected a video for limit"),
        (["source=photos/notes.mp4", "fast=true"], "Expected photographs for fast"),
        (["source=photos", "outputs=[colour]"], "Expected outputs out of color"),
        (["source=photos", "colormap=no"], "no colormap"),
        (["source=photos", "pointcloud=obj"], "ply or glb"),
        (["source=photos", "fov_deg=wide"], "a number for fov_deg"),
        (["source=photos", "intrinsics=[1,2]"], "fx, fy, cx, cy"),
        (["source=photos", "intrinsics=5"], "fx, fy, cx, cy"),
        (["source=photos", "out=photos"], "apart from the photographs"),
        (["source=photos", "out=photos/notes.txt/x"], "folder to write to"),
        (["source=photos", "device=abacus"], "abacus"),
        (["source=photos", "size=5"], "at least one patch"),
        (["source=photos/notes.mp4"], "cannot be opened"),
        (["source=gone.mp4"], "there is none"),
    ],
)
def test_predict__a_mistake_is_one_sentence(arguments, message, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "notes.mp4").write_text("no video")
    DepthAnything(build(), size=28, device="cpu").save_pretrained("model")
    with pytest.raises(UserError, match=message):
        main.__wrapped__(compose("predict", ["model=model", "out=out", *arguments]))
    assert not list(tmp_path.glob("out/**/*"))


@pytest.mark.parametrize("wrong", ["out=photos/notes.txt", "source=photos/notes.mp4", "outputs=[none]"])
def test_predict__mistakes_are_found_before_the_model_is_loaded(wrong, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos / "notes.mp4").write_text("no video")
    monkeypatch.setattr(module, "load_predictor", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(UserError):
        main.__wrapped__(compose("predict", ["model=model", "source=photos", "out=out", wrong]))
