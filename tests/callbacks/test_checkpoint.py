import os
import random
import signal
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from depth_anything_train.callbacks.checkpoint import CheckpointEvery
from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, newest_sound_checkpoint
from depth_anything_train.callbacks.interruption import Interruption, Stopped
from depth_anything_train.callbacks.random_state import RandomState
from depth_anything_train.internals import leave_signals_to
from depth_anything_train.runtime import UserError

STEPS = 8


class Noisy(pl.LightningModule):
    """Two weights that every source of random numbers pushes around."""

    def __init__(self, stop_in=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.stop_in = set(stop_in)

    def interrupt(self, moment):
        if moment in self.stop_in:
            self.stop_in.remove(moment)
            os.kill(os.getpid(), signal.SIGTERM)

    def setup(self, stage):
        self.interrupt("start-up")

    def training_step(self, batch, batch_idx):
        self.interrupt(("step", self.global_step))
        noise = torch.randn(2) + random.random() + np.random.rand()
        return (self.weight * noise).sum()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}]


class Endless:
    """A loader without a length, like that of the shards, that knows where it is to begin."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self):
        yield from range(self.trainer.global_step, STEPS)


def make_trainer(callback, disk):
    return pl.Trainer(
        max_steps=STEPS, max_epochs=-1, callbacks=[RandomState(), callback], plugins=[disk], logger=False,
        accelerator="cpu", devices=1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def fit(folder, module, every=3, background=False):
    """One start of the program: from the newest checkpoint to the end, or until it is asked to stop."""
    pl.seed_everything(0, verbose=False)
    with Interruption() as interruption:
        callback = CheckpointEvery(folder, every_n_steps=every, interruption=interruption)
        trainer = make_trainer(callback, SoundCheckpointIO(background=background))
        leave_signals_to(interruption.listen, trainer)
        newest = newest_sound_checkpoint(folder)
        trainer.fit(module, Endless(trainer), ckpt_path=newest, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    module = Noisy()
    fit(tmp_path_factory.mktemp("undisturbed"), module)
    return module


@pytest.mark.filterwarnings("ignore:.*num_workers|.*does not have many workers:UserWarning")
def test_stop__at_any_moment_continues_to_the_same_weights(tmp_path, undisturbed):
    for background, moment in enumerate([("step", 4), "start-up", ("step", 5)]):
        module = Noisy([moment])
        with pytest.raises(Stopped):
            fit(tmp_path, module, background=bool(background))
        assert not module.stop_in
    module = Noisy()
    fit(tmp_path, module)
    assert torch.equal(module.weight, undisturbed.weight)


class SlowIO(SoundCheckpointIO):
    """Takes its time."""

    def _save(self, *arguments):
        time.sleep(0.5)
        super()._save(*arguments)


class Watchful(Interruption):
    """Counts the checkpoints whenever the ranks agree on a request to stop."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.seen = folder, []

    def agree(self):
        if self.received:
            self.seen.append(len(list(self.folder.glob("*.ckpt"))))
        return super().agree()


def test_stop__no_rank_leaves_before_the_checkpoint_is_written(tmp_path):
    with Watchful(tmp_path) as interruption:
        callback = CheckpointEvery(tmp_path, every_n_steps=1000, interruption=interruption)
        trainer = make_trainer(callback, SlowIO(background=True))
        with pytest.raises(Stopped):
            trainer.fit(Noisy([("step", 2)]), Endless(trainer))
    assert interruption.seen == [0, 1]


def test_every__refuses_zero(tmp_path):
    with pytest.raises(UserError, match="every_n_steps to be a whole number of at least 1, but got 0"):
        CheckpointEvery(tmp_path, every_n_steps=0, interruption=Interruption())
