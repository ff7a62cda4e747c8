import pytest
import torch

from depth_anything_train.callbacks.checkpoint import (
    CheckpointEvery,
    SoundCheckpointIO,
    checkpoints,
    is_sound,
    newest_sound_checkpoint,
)
from depth_anything_train.callbacks.interruption import Interruption
from depth_anything_train.runtime import UserError


def save(folder, step):
    path = folder / f"step-{step:08d}.ckpt"
    SoundCheckpointIO().save_checkpoint({"step": step, "weights": torch.arange(1000.0) + step}, path)
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


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"every_n_steps": 1, "keep": 0}])
def test_every__refuses_zero(tmp_path, options):
    with pytest.raises(UserError, match="must be >= 1, got"):
        CheckpointEvery(tmp_path, interruption=Interruption(), **options)


def test_is_sound__a_mark_without_its_keys_is_torn(tmp_path):
    save(tmp_path, 1).with_suffix(".json").write_text("{}")
    assert newest_sound_checkpoint(tmp_path) is None
