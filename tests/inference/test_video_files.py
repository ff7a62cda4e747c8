import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from films import damage, picture, read_film, write_film, write_matrix

from depth_anything_train.inference.sources import Video, as_video
from depth_anything_train.inference.video_files import VideoReader, video_writer
from depth_anything_train.runtime import UserError


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def copy(source, target):
    """Read and write without a model in between; returns the reader's frames."""
    frames = []
    with VideoReader(Video(str(source), "film")) as reader:
        with video_writer(target, reader, reader.height, reader.width) as writer:
            for frame in reader.frames(writer.write_sound):
                frames.append(frame)
                writer.write(frame.image, frame)
    return frames


def start_and_duration(path):
    """In seconds; a transport stream does not start at 0."""
    with av.open(str(path)) as container:
        return container.start_time / 1e6, container.duration / 1e6


KINDS = {
    "film.mp4": {},
    "film.mov": {"audio": "mp3"},
    "film.mkv": {"audio": "pcm_s16le", "codec": "mpeg4"},
    "film.ts": {"audio": "mp2"},
    "film.avi": {"audio": "mp3", "codec": "mpeg4"},
    "silent.mp4": {"audio": None},
}


@pytest.mark.parametrize("name", KINDS)
def test_copy__has_the_frames_times_and_sound_of_the_video(name, tmp_path):
    source = write_film(tmp_path / name, **KINDS[name])
    copy(source, tmp_path / "copy.mp4")
    before, times, sound = read_film(source)
    after, new_times, new_sound = read_film(tmp_path / "copy.mp4")
    assert after.shape == before.shape
    assert np.abs(after.astype(int) - before).mean() < 4
    (start, length), (new_start, new_length) = map(start_and_duration, (source, tmp_path / "copy.mp4"))
    assert np.subtract(new_times, new_start) == pytest.approx(np.subtract(times, start), abs=2e-3)
    assert new_length == pytest.approx(length, abs=0.05)
    assert bool(new_sound) == bool(sound)
    if KINDS[name].get("audio", "aac") in ("aac", "mp3"):
        assert new_sound == sound  # untouched


def test_copy__keeps_a_variable_frame_rate(tmp_path):
    times = [0.0, 0.01, 0.2, 0.21, 0.22, 0.6, 0.61, 1.0]
    source = write_film(tmp_path / "film.mp4", len(times), times=times)
    copy(source, tmp_path / "copy.mp4")
    assert read_film(tmp_path / "copy.mp4")[1] == pytest.approx(times, abs=1e-3)
    lengths = [start_and_duration(path)[1] for path in (source, tmp_path / "copy.mp4")]
    assert lengths[0] == pytest.approx(lengths[1], abs=0.05)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_reader__turns_frames_as_the_file_says(rotation, turns, tmp_path):
    source = write_film(tmp_path / "film.mp4", 2, rotation=rotation)
    frame = copy(source, tmp_path / "copy.mp4")[0]
    expected = np.rot90(picture(0, 48, 64), turns)
    assert frame.image.shape == expected.shape
    assert np.abs(frame.image.astype(int) - expected).mean() < 6
    assert read_film(tmp_path / "copy.mp4")[0].shape[1:] == expected.shape


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0, 1, -1, 0)])
def test_reader__mirrors_frames_as_the_file_says(matrix, tmp_path):
    source = write_film(tmp_path / "film.mp4", 2, audio=None)
    write_matrix(source, *matrix)
    a, b, c, d = matrix
    expected, image = picture(0, 48, 64), None
    places = [(x, y) for y in range(48) for x in range(64)]
    shown = [(a * x + c * y, b * x + d * y) for x, y in places]
    left, top = (min(one[axis] for one in shown) for axis in (0, 1))
    image = np.zeros((48, 64, 3) if a else (64, 48, 3))
    for (x, y), (right, down) in zip(places, shown, strict=True):
        image[down - top, right - left] = expected[y, x]
    frame = copy(source, tmp_path / "copy.mp4")[0]
    assert frame.image.shape == image.shape and np.abs(frame.image - image).mean() < 6


@pytest.mark.parametrize(
    ("aspect", "rotation", "shape"), [(2, 0, (48, 128)), ("12/11", 0, (48, 70)), (2, 90, (128, 48))]
)
def test_reader__pixels_that_are_not_square_are_stretched(aspect, rotation, shape, tmp_path):
    source = write_film(tmp_path / "film.mp4", 2, aspect=aspect, rotation=rotation)
    assert copy(source, tmp_path / "copy.mp4")[0].image.shape[:2] == shape
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 0, 1)


@pytest.mark.parametrize("rate", [11127, 6000, 192000])
def test_writer__sound_at_a_rate_that_aac_lacks_is_there(rate, tmp_path):
    source = write_film(tmp_path / "film.mkv", 25, audio="pcm_s16le", sound_rate=rate)
    copy(source, tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / container.streams.audio[0].rate
    assert seconds == pytest.approx(1, abs=0.15)


def test_writer__sound_that_the_file_cannot_hold_is_left_out(tmp_path):
    source = write_film(tmp_path / "film.ts")
    taken = []
    with VideoReader(Video(str(source), "film")) as reader:
        with video_writer(tmp_path / "copy.mp4", reader, reader.height, reader.width) as writer:

            def write_sound(packet):
                if len(taken) == 6:
                    bad = av.Packet(b"\xff\xf1" + bytes(98))  # the beginning of a frame of AAC, and nothing behind it
                    bad.pts, bad.dts, bad.time_base = packet.pts, packet.dts, packet.time_base
                    packet = bad
                taken.append(writer.write_sound(packet))

            for frame in reader.frames(write_sound):
                writer.write(frame.image, frame)
    assert len(taken) > 10 and [number for number, was_taken in enumerate(taken) if not was_taken] == [6]
    assert len(read_film(tmp_path / "copy.mp4")[0]) == 12


def test_writer__adds_a_row_and_a_column_where_sides_are_odd(tmp_path):
    source = write_film(tmp_path / "film.mkv", 2, height=47, width=63, codec="mpeg4")
    copy(source, tmp_path / "copy.mp4")
    images = read_film(tmp_path / "copy.mp4")[0]
    assert images.shape == (2, 48, 64, 3)
    assert np.abs(images[:, -1].astype(int) - images[:, -2]).mean() < 4


def test_writer__colours_are_those_of_the_picture(tmp_path):
    source = write_film(tmp_path / "film.mp4", 3, audio=None)
    flat = np.zeros((48, 64, 3), np.uint8)
    flat[:, :32], flat[:, 32:] = (158, 1, 66), (94, 79, 162)  # the ends of Spectral
    with VideoReader(Video(str(source), "film")) as reader:
        with video_writer(tmp_path / "flat.mp4", reader, 48, 64) as writer:
            for frame in reader.frames(writer.write_sound):
                writer.write(flat, frame)
    image = read_film(tmp_path / "flat.mp4")[0][-1].astype(int)
    assert np.abs(image[:, :24] - flat[:, :24]).max() <= 4
    assert np.abs(image[:, -24:] - flat[:, -24:]).max() <= 4


def test_writer__an_error_leaves_no_file(tmp_path):
    source = write_film(tmp_path / "film.mp4")
    with VideoReader(Video(str(source), "film")) as reader, pytest.raises(RuntimeError):
        with video_writer(tmp_path / "copy.mp4", reader, 48, 64) as writer:
            for frame in reader.frames(writer.write_sound):
                writer.write(frame.image, frame)
                if frame.time:
                    raise RuntimeError
    assert list(tmp_path.iterdir()) == [source]


def test_reader__counts_the_frames_before_reading_them(tmp_path):
    with VideoReader(Video(str(write_film(tmp_path / "film.mp4")), "film")) as reader:
        assert reader.count == 12
    with VideoReader(Video(str(write_film(tmp_path / "film.mkv")), "film")) as reader:
        assert reader.count in (12, 13)  # by the duration: the file does not say it


def test_reader__damage_is_counted_and_the_rest_is_there(tmp_path):
    source = write_film(tmp_path / "film.mp4", 60, audio=None)
    damage(source, 30)
    with VideoReader(Video(str(source), "film")) as reader:
        frames = list(reader.frames(lambda sound: None))
        assert reader.damaged == 1 and 50 < len(frames) < 60


def test_reader__what_is_no_video_is_refused_in_a_sentence(tmp_path):
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match="cannot be opened"):
        VideoReader(Video(str(noise), "noise"))
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be opened"):
        VideoReader(Video(str(tmp_path / "empty.mp4"), "empty"))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(write_film(tmp_path / "film.mp4").read_bytes()[:1500])
    with pytest.raises(UserError, match="cannot be opened"):
        VideoReader(Video(str(cut), "cut"))
    with pytest.raises(UserError, match="rtsp://127.0.0.1:9/door"):
        VideoReader(Video("rtsp://me:secret@127.0.0.1:9/door", "door", live=True))


def test_reader__reads_what_a_server_sends(tmp_path):
    source = write_film(tmp_path / "film.ts")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        with VideoReader(as_video(f"http://127.0.0.1:{server.server_port}/film.ts")) as reader:
            frames = list(reader.frames(lambda sound: None))
        server.shutdown()
    assert reader.live and reader.damaged == 0
    assert np.stack([frame.image for frame in frames]) == pytest.approx(read_film(source)[0], abs=1)


def test_reader__a_camera_that_is_not_there_is_an_error_in_a_sentence(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(UserError, match="/dev/video99, but it cannot be opened"):
        VideoReader(as_video(99))


def test_reader__sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "tone.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        samples.sample_rate = 48_000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="no picture"):
        VideoReader(Video(str(tmp_path / "tone.mp4"), "tone"))


def test_reader__without_pyav_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"depth-anything-train\[video\]"):
        VideoReader(Video("film.mp4", "film"))


def test_reader__a_playlist_that_poses_as_a_film_is_not_followed(tmp_path):
    write_film(tmp_path / "film.mp4")
    posing = tmp_path / "posing.mp4"
    posing.write_text("ffconcat version 1.0\nfile film.mp4\n")
    with pytest.raises(UserError, match="cannot be opened"):
        VideoReader(Video(str(posing), "posing"))
