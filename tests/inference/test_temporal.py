import numpy as np
import pytest

from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.inference.temporal import TemporalAlignment, robust_fit

ROWS, COLUMNS = np.mgrid[:60, :80] / 60


def room(seed=0):
    """Disparity (60, 80) of a floor and some boxes."""
    rng = np.random.default_rng(seed)
    disparity = ROWS + 0.5
    for _ in range(6):
        top, left = rng.integers(0, 40), rng.integers(0, 60)
        disparity[top : top + 15, left : left + 15] = rng.uniform(0.3, 3)
    return disparity


def film(count, *, jitter=0.1, noise=0.01, seed=0):
    """Frames of one room through which a box moves; scale and shift jump from frame to frame, as do the pixels."""
    rng = np.random.default_rng(seed)
    still = room()
    for number in range(count):
        disparity = still.copy()
        disparity[20:35, 2 * number % 65 :][:, :15] = 2.5
        disparity += noise * rng.standard_normal(disparity.shape)
        yield (np.exp(jitter * rng.standard_normal()) * disparity + jitter * rng.standard_normal()).astype(np.float32)


def aligned(frames):
    alignment = TemporalAlignment()
    return [alignment(Prediction(frame)).disparity for frame in frames]


def flicker(frames):
    """Mean change of a still corner from frame to frame."""
    return np.abs(np.diff([frame[:10, :10].mean() for frame in frames])).mean()


def test_alignment__takes_the_flicker_out():
    frames = list(film(100))
    assert flicker(aligned(frames)) < 0.05 * flicker(frames)


def test_alignment__changes_scale_and_shift_alone():
    frames = list(film(5))
    for frame, result in zip(frames, aligned(frames), strict=True):
        slope, offset = np.polyfit(frame.ravel(), result.ravel(), 1)
        assert slope > 0
        assert result == pytest.approx(slope * frame + offset, abs=1e-4)
        assert result.dtype == np.float32


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_alignment__keeps_the_contrast_however_long_the_video(noise):
    results = aligned(film(400, noise=noise))
    contrast = [np.ptp(np.percentile(frame[40:], (5, 95))) for frame in results]
    assert np.mean(contrast[-50:]) == pytest.approx(np.mean(contrast[:50]), rel=0.15)


def test_alignment__in_the_long_run_gives_the_numbers_of_the_model():
    still = room().astype(np.float32)
    frames = [still] * 5 + [2 * still + 1] * 1000
    results = aligned(frames)
    assert np.abs(results[5] - still).max() < 0.1  # the jump is not seen
    assert results[-1] == pytest.approx(frames[-1], abs=0.01)  # and is forgotten


def test_alignment__starts_anew_at_a_cut():
    alignment = TemporalAlignment()
    for _ in range(20):
        alignment(Prediction(room(1).astype(np.float32)))
    other = 10 * room(1)[::-1].astype(np.float32) + 5
    assert (alignment(Prediction(other)).disparity == other).all()
    assert alignment.limits.color == pytest.approx(np.percentile(other, (1, 99)))
    assert alignment.limits.control == pytest.approx((other.min(), other.max()))


def test_alignment__limits_of_the_colours_move_slowly():
    alignment = TemporalAlignment()
    limits = []
    for frame in film(60):
        alignment(Prediction(frame))
        limits.append(alignment.limits)
    assert np.abs(np.diff(limits, axis=0)).max() < 0.05 * np.ptp(limits[0])


def test_alignment__a_control_map_has_the_percentile_that_was_asked_for():
    alignment = TemporalAlignment(percentile=20)
    alignment(Prediction(still := room().astype(np.float32)))
    assert alignment.limits.control == pytest.approx(np.percentile(still, (20, 80)))


def test_alignment__leaves_metres_alone_and_holds_their_colours():
    alignment = TemporalAlignment()
    near, far = (Prediction(scale / room().astype(np.float32), "metric") for scale in (1.0, 1.2))
    assert alignment(near) is near
    before = alignment.limits
    assert alignment(far) is far
    change = np.subtract(alignment.limits, before)
    assert 0 < np.abs(change).max() < 0.03


def test_alignment__frames_without_contrast_pass():
    alignment = TemporalAlignment()
    frames = [np.zeros((6, 8), np.float32), np.ones((6, 8), np.float32), room()[:6, :8].astype(np.float32)]
    for frame in frames:
        assert (alignment(Prediction(frame)).disparity == frame).all()


def test_robust_fit__is_not_moved_by_what_moves():
    reference = room().ravel()
    values = (reference - 0.7) / 3.0
    values[:600] = 50.0  # an eighth of the picture is something new
    scale, shift, correlation = robust_fit(values, reference)
    assert (scale, shift, correlation) == pytest.approx((3.0, 0.7, 1.0), abs=1e-6)
