import os
import random
import signal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from depth_anything_train.callbacks.checkpoint import CheckpointEvery
from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, newest_sound_checkpoint
from depth_anything_train.callbacks.interruption import Interruption, Stopped
from depth_anything_train.callbacks.random_state import RandomState
from depth_anything_train.runtime import UserError

STEPS = 8


class Noisy(pl.LightningModule):
    """Two weights that every source of random numbers pushes around, and a validation that draws none."""

    def __init__(self, stop_in=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.stop_in = set(stop_in)
        self.validated = []

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

    def validation_step(self, batch, batch_idx):
        moment = "sanity check" if self.trainer.sanity_checking else ("validation", self.global_step, batch_idx)
        self.interrupt(moment)
        if not self.trainer.sanity_checking and batch_idx == 2:
            self.validated.append((self.global_step, self.weight.sum().item()))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}]


class Endless:
    """A loader without a length, like that of the shards, that knows where it is to begin."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self):
        yield from range(self.trainer.global_step, STEPS)


def fit(folder, module, every=3, background=False):
    """One start of the program: from the newest checkpoint to the end, or until it is asked to stop."""
    pl.seed_everything(0, verbose=False)
    with Interruption() as interruption:
        callback = CheckpointEvery(folder, every_n_steps=every, interruption=interruption)
        trainer = pl.Trainer(
            max_steps=STEPS, max_epochs=-1, val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=2,
            callbacks=[RandomState(), callback], plugins=[SoundCheckpointIO(background=background)], logger=False,
            accelerator="cpu", devices=1, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer._signal_connector.register_signal_handlers = interruption.listen
        validation = torch.utils.data.DataLoader(torch.zeros(3), batch_size=1)
        newest = newest_sound_checkpoint(folder)
        trainer.fit(module, Endless(trainer), validation, ckpt_path=newest, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    module = Noisy()
    fit(tmp_path_factory.mktemp("undisturbed"), module)
    assert [step for step, _ in module.validated] == [4, 8]
    return module


@pytest.mark.filterwarnings("ignore:.*num_workers|.*does not have many workers:UserWarning")
@pytest.mark.parametrize(
    "moments",
    [
        ["sanity check"],
        [("step", 4), "start-up", ("step", 5)],
        [("validation", 4, 1), ("validation", 4, 0)],
        [("validation", 8, 1)],
    ],
)
def test_stop__at_any_moment_continues_to_the_same_weights_and_validations(tmp_path, undisturbed, moments):
    validated = []
    for background, moment in enumerate(moments):
        module = Noisy([moment])
        with pytest.raises(Stopped):
            fit(tmp_path, module, background=bool(background))
        assert not module.stop_in
        validated += module.validated
    module = Noisy()
    fit(tmp_path, module)
    assert torch.equal(module.weight, undisturbed.weight)
    assert validated + module.validated == undisturbed.validated


def test_every__refuses_zero(tmp_path):
    with pytest.raises(UserError, match="every_n_steps to be at least 1, but came 0"):
        CheckpointEvery(tmp_path, every_n_steps=0, interruption=Interruption())
