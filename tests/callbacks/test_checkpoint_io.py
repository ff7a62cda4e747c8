import resource
from contextlib import contextmanager

import pytest
import torch

from depth_anything_train.callbacks.checkpoint_io import (
    SoundCheckpointIO,
    _digest,
    is_sound,
    newest_sound_checkpoint,
    remove_half_checkpoints,
)
from depth_anything_train.run_folder import checkpoints
from depth_anything_train.runtime import UserError


def save(folder, step):
    path = folder / f"step-{step:08d}.ckpt"
    SoundCheckpointIO(keep=9).save_checkpoint({"step": step, "weights": torch.arange(1000.0) + step}, path)
    return path


def test_save__can_be_read_back_equal(tmp_path):
    content = SoundCheckpointIO().load_checkpoint(save(tmp_path, 3))
    assert content["step"] == 3
    assert torch.equal(content["weights"], torch.arange(1000.0) + 3)


def test_newest__passes_over_torn_unmarked_and_flipped_checkpoints(tmp_path, capsys):
    sound, torn, flipped, unmarked = (save(tmp_path, step) for step in (1, 2, 3, 4))
    torn.write_bytes(torn.read_bytes()[:-10])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    unmarked.with_suffix(".json").unlink()
    (tmp_path / ".step-00000005.ckpt.abc.tmp").write_bytes(b"half")

    assert newest_sound_checkpoint(tmp_path) == sound
    said = capsys.readouterr().err
    assert all(path.name in said for path in (torn, flipped, unmarked))


def test_newest__what_was_found_sound_is_loaded_without_reading_it_for_another_hash(tmp_path):
    path, hashed = save(tmp_path, 1), _digest.cache_info().misses
    assert newest_sound_checkpoint(tmp_path) == path
    SoundCheckpointIO().load_checkpoint(path)
    assert _digest.cache_info().misses == hashed + 1
    path.write_bytes(path.read_bytes()[::-1])
    assert not is_sound(path)


def test_newest__an_empty_folder_has_none(tmp_path):
    assert newest_sound_checkpoint(tmp_path / "none") is None


def test_load__a_torn_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, 1)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="torn"):
        SoundCheckpointIO().load_checkpoint(path)


def test_load__never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "step-00000001.ckpt"
    SoundCheckpointIO().save_checkpoint({"evil": Evil()}, path)
    assert is_sound(path)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        SoundCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_remove__takes_the_mark_too(tmp_path):
    path = save(tmp_path, 1)
    SoundCheckpointIO().remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    assert checkpoints(tmp_path) == []


def test_is_sound__a_mark_without_its_keys_is_torn(tmp_path):
    save(tmp_path, 1).with_suffix(".json").write_text("{}")
    assert newest_sound_checkpoint(tmp_path) is None


def steps(folder):
    return [int(path.stem.removeprefix("step-")) for path in checkpoints(folder)]


def test_keep__the_newest_stay_and_what_lay_ahead_goes(tmp_path):
    disk = SoundCheckpointIO(keep=2)
    for step in (1, 2, 9, 3):  # 9 was torn, and the run continued from 2
        disk.save_checkpoint({"step": step}, tmp_path / f"step-{step:08d}.ckpt")
    assert steps(tmp_path) == [2, 3]
    with pytest.raises(UserError, match="checkpoint.keep to be a whole number"):
        SoundCheckpointIO(keep=0)


def test_background__writes_the_state_as_it_was_and_the_next_one_after_it(tmp_path):
    disk = SoundCheckpointIO(background=True)
    weights = torch.zeros(3_000_000)
    for step in (1, 2):
        state = {"weights": weights, "counts": {"step": step}}
        disk.save_checkpoint(state, tmp_path / f"step-{step:08d}.ckpt")
        assert step == 1 or is_sound(tmp_path / "step-00000001.ckpt")
        weights += 1  # training goes on, in the same memory
        state["counts"]["step"] = -1
    disk.wait()
    for step in (1, 2):
        content = disk.load_checkpoint(tmp_path / f"step-{step:08d}.ckpt")
        assert content["counts"] == {"step": step}
        assert (content["weights"] == step - 1).all()


@contextmanager
def largest_file(size):
    """As on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("background", [False, True])
def test_save__where_there_is_no_room_the_older_checkpoint_holds_and_a_sentence_says_so(tmp_path, background):
    disk = SoundCheckpointIO(background=background)
    older = save(tmp_path, 1)
    with (
        largest_file(100_000),
        pytest.raises(UserError, match="step-00000002.ckpt: File too large. .* before it holds"),
    ):
        disk.save_checkpoint({"weights": torch.zeros(1_000_000)}, tmp_path / "step-00000002.ckpt")
        disk.wait()
    assert newest_sound_checkpoint(tmp_path) == older
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.ckpt", "step-00000001.json"]


@pytest.mark.parametrize("background", [False, True])
def test_save__where_there_is_no_room_for_the_first_checkpoint_nothing_is_left_and_none_is_promised(
    tmp_path, background
):
    disk = SoundCheckpointIO(background=background)
    with largest_file(100_000), pytest.raises(UserError, match="step-00000001.ckpt: File too large. Make room.* again"):
        disk.save_checkpoint({"weights": torch.zeros(1_000_000)}, tmp_path / "step-00000001.ckpt")
        disk.wait()
    assert not list(tmp_path.iterdir())


def test_background__a_failure_is_raised_at_the_next_look(tmp_path):
    disk = SoundCheckpointIO(background=True)
    (tmp_path / "file").write_text("no folder")
    disk.raise_if_failed()  # nothing yet
    disk.save_checkpoint({"step": 1}, tmp_path / "file" / "step-00000001.ckpt")
    with pytest.raises(UserError, match="Could not write"):
        while True:
            disk.raise_if_failed()


def test_half_checkpoints__are_removed_and_nothing_else_even_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    sound = save(tmp_path, 1)
    (tmp_path / ".step-00000002.ckpt.abc.tmp").write_bytes(b"half")
    remove_half_checkpoints(tmp_path)
    assert sorted(tmp_path.iterdir()) == [sound, sound.with_suffix(".json")]
