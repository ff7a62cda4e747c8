"""What a visitor does, in a real browser, with the real command behind it."""

import io
import signal

import cv2
import numpy as np
import PIL.Image
import pytest
from scenes import encode, scene

from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.exif import FOCAL_35MM, PHOTOGRAPH
from depth_anything_train.inference.png16 import to_16bit
from depth_anything_train.inference.prediction import Prediction

av = pytest.importorskip("av")
trimesh = pytest.importorskip("trimesh")

HEIGHT, WIDTH = 90, 120


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a room.png"
    path.write_bytes(encode(scene(3, HEIGHT, WIDTH)[0], "png"))
    return path


def write_video(path, frames=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(number, 48, 64)[0], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def drop(page, file):
    page.locator("input[type=file]").last.set_input_files(file)  # that of the tab that was opened last


def see(page, file):
    """Drop a photograph and wait until everything about it is there."""
    drop(page, file)
    page.locator("button:enabled", has_text="Points").wait_for()


def choose(page, label, value):
    page.get_by_label(label).click()
    page.get_by_role("option", name=value).click()


def download(page, button, folder):
    with page.expect_download() as waiting:
        page.get_by_text(button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def shown(page):
    """The picture in colours that lies under the slider, as RGB."""
    url = page.locator("img[src*='disparity.png']").get_attribute("src")
    data = page.context.request.get(url).body()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_photograph__is_shown_with_its_disparity_and_the_downloads_are_those_of_predict(page, photo, models, tmp_path):
    see(page, photo)
    prediction = DepthAnything.from_pretrained(models / "relative", device="cpu").predict(photo)
    assert shown(page).shape == (HEIGHT, WIDTH, 3)
    assert "no metres" in page.locator(".facts").inner_text()
    file = download(page, "Numbers", tmp_path)
    numbers = np.load(file)
    assert file.name == "a room.npy" and numbers == pytest.approx(prediction.disparity, abs=1e-5)
    levels = cv2.imread(str(download(page, "16 bits", tmp_path)), cv2.IMREAD_UNCHANGED)
    assert levels.dtype == np.uint16 and (levels == to_16bit(Prediction(numbers))).all()
    control = cv2.imread(str(download(page, "Control map", tmp_path)))
    assert control.shape == (HEIGHT, WIDTH, 3) and np.ptp(control) == 255


def test_photograph__becomes_points_of_the_chosen_field_of_view(page, photo, tmp_path):
    see(page, photo)
    with page.expect_response(lambda response: response.url.endswith(".glb")) as viewed:
        page.get_by_role("tab", name="3-D").click()
    assert len(trimesh.load(io.BytesIO(viewed.value.body()), file_type="glb").geometry) == 1
    page.locator("canvas").wait_for()
    wide = trimesh.load(download(page, "Points", tmp_path))
    assert wide.vertices.shape == (HEIGHT * WIDTH, 3)
    with page.expect_response(lambda response: response.url.endswith(".glb")):
        page.get_by_label("Field of view").first.fill("30")
    narrow = trimesh.load(download(page, "Points", tmp_path))
    assert np.ptp(narrow.vertices[:, 0]) < np.ptp(wide.vertices[:, 0]) * 0.6
    exif = PIL.Image.Exif()
    exif.get_ifd(PHOTOGRAPH)[FOCAL_35MM] = 18  # of the aspect of film: 90 degrees across
    PIL.Image.new("RGB", (36, 24)).save(tmp_path / "stated.jpg", exif=exif)
    drop(page, tmp_path / "stated.jpg")
    page.wait_for_function("() => document.querySelector('input[aria-label*=\"Field of view\"]').value == 90")


def test_palette__changes_the_colours_without_another_prediction(page, photo):
    see(page, photo)
    before, facts = shown(page), page.locator(".facts").inner_text()
    handlers = {one["id"]: one["api_name"] for one in page.evaluate("window.gradio_config.dependencies")}
    called = []
    page.on("request", lambda r: "queue/join" in r.url and called.append(handlers[r.post_data_json["fn_index"]]))
    with page.expect_response(lambda response: response.url.endswith("disparity.png")):
        choose(page, "Palette", "gray")
    after = shown(page)
    assert (after[..., 0] == after[..., 1]).all() and not (before[..., 0] == before[..., 1]).all()
    assert page.locator(".facts").inner_text() == facts
    assert called[0].startswith("show") and "predict" not in called


def test_metric_model__states_metres(page, photo):
    see(page, photo)
    choose(page, "Model", "with_metres")
    page.get_by_text("Metric depth").wait_for()
    far, near = page.locator(".scale").inner_text().split("m")[:2]
    assert 20 > float(far) > float(near) > 0


def test_size__is_that_of_the_network(page, photo, models, tmp_path):
    see(page, photo)
    with page.expect_response(lambda response: response.url.endswith("disparity.png")):
        choose(page, "Input size", "252")
    page.locator("button:enabled", has_text="Points").wait_for()
    prediction = DepthAnything.from_pretrained(models / "relative", device="cpu").predict(photo, size=252)
    assert np.load(download(page, "Numbers", tmp_path)) == pytest.approx(prediction.disparity, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "Expected a JPEG, PNG or WebP image"),
        (encode(np.zeros((1, 22_000, 3), np.uint8), "png"), "less extreme aspect"),
    ],
    ids=["text", "strip"],
)
def test_wrong_file__is_told_in_the_page_which_goes_on(page, photo, tmp_path, content, message):
    see(page, photo)
    (tmp_path / "wrong.png").write_bytes(content)
    drop(page, tmp_path / "wrong.png")
    page.get_by_text(message).wait_for()
    page.locator(".facts").wait_for(state="detached")
    assert page.locator("button:enabled", has_text="Points").count() == 0
    assert "Traceback" not in page.inner_text("body")
    see(page, photo)


def test_video__plays_and_can_be_downloaded(page, tmp_path):
    video = write_video(tmp_path / "walk.mp4")
    page.get_by_role("tab", name="Video").click()
    drop(page, video)
    page.locator("video").first.wait_for()
    page.get_by_role("button", name="Predict").click()
    page.locator("video").nth(1).wait_for()
    page.wait_for_function("() => document.querySelectorAll('video')[1].readyState >= 2")
    assert page.locator("video").nth(1).evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 48]
    with page.expect_download() as waiting:
        page.get_by_label("Download").last.click()
    waiting.value.save_as(tmp_path / "result.mp4")
    with av.open(str(tmp_path / "result.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def test_page__may_ask_no_other_server(page):
    violated = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
            fetch('http://127.0.0.1:9/').catch(() => null);
        })"""
    )
    assert violated == "connect-src"


def test_wrong_video__is_told_in_the_page(page, tmp_path):
    (tmp_path / "wrong.mp4").write_bytes(b"no video at all")
    page.get_by_role("tab", name="Video").click()
    drop(page, tmp_path / "wrong.mp4")
    page.locator("video").wait_for()
    page.get_by_role("button", name="Predict").click()
    message = page.get_by_text("Expected a video")
    message.wait_for()
    assert "Traceback" not in message.inner_text()


def test_server__connects_to_nobody_and_leaves_nothing_behind(server):
    assert "Traceback" not in server.log.read_text()
    assert set(server.hosts.read_text().split()) <= {"127.0.0.1", "::1"}
    assert any(server.tmp.iterdir())
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) == 0
    assert list(server.tmp.iterdir()) == []
