"""Short videos with PyAV: a box that moves over a ramp, and a tone."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 48_000


def picture(number, height, width):
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * 255 // width, rows * 255 // height, np.full_like(rows, 60)], axis=-1).astype(np.uint8)
    left = 3 * number % (width // 2)
    image[height // 3 : height // 2, left : left + width // 4] = (250, 240, 30)
    return image


def write_film(
    path,
    count=12,
    *,
    height=48,
    width=64,
    rate=25,
    times=None,
    codec="libx264",
    audio="aac",
    sound_rate=SAMPLE_RATE,
    rotation=0,
    aspect=1,
    sound_s=None,
    **options,
):
    """Write `count` frames at `rate` or at `times` in seconds; `rotation` in degrees is noted for the player, and so
    is `aspect`, the width of a pixel in heights. Sound takes as long as the pictures, or `sound_s`. `options` are those
    of FFmpeg's writer of the file."""
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=rate, width=width, height=height)
        video.codec_context.gop_size = 5
        video.codec_context.time_base = Fraction(1, rate) if times is None else Fraction(1, 90_000)
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=sound_rate, layout="stereo") if audio else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            seconds = number / rate if times is None else times[number]
            frame.pts, frame.time_base = round(seconds / video.codec_context.time_base), video.codec_context.time_base
            container.mux(video.encode(frame))
        if sound:
            seconds = sound_s or (count / rate if times is None else times[-1])
            wave = np.sin(np.arange(round(seconds * sound_rate)) * 440 * 2 * np.pi / sound_rate) * 0.3
            samples = av.AudioFrame.from_ndarray(np.stack([wave, wave]).astype(np.float32), "fltp", "stereo")
            samples.sample_rate, samples.pts = sound_rate, 0
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
        container.mux(video.encode(None))
    return Path(path)


def trimmed(film, path, *, seconds):
    """The film without its first seconds: in the file, but not to be shown, as lossless trimming leaves them."""
    with av.open(str(film)) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                offset = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                target.mux(packet)
    return path


def read_film(path):
    """Frames (T, H, W, 3), their times in seconds, and packets of sound as bytes, of the file as players see it."""
    with av.open(str(path)) as container:
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        packets = container.demux(audio=0) if container.streams.audio else []
        sound = [bytes(packet) for packet in packets if packet.size]
    images, times = zip(*frames, strict=True)
    return np.stack(images), list(times), sound


def damage(path, number):
    """Spoil one of the pictures in an mp4."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[number] : places[number] + 4] = b"\xff" * 4  # the length of what follows
    path.write_bytes(data)


def write_matrix(film, a, b, c, d):
    """Set the display matrix of an mp4's only stream, which stands after that of the whole film and equals it."""
    content = film.read_bytes()
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    assert content.count(identity) == 2
    numbers = (65536 * a, 65536 * b, 0, 65536 * c, 65536 * d, 0, 0, 0, 1 << 30)
    place = content.rindex(identity)
    film.write_bytes(content[:place] + struct.pack(">9i", *numbers) + content[place + len(identity) :])
