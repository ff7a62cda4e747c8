"""A killed and continued run ends with the same weights, to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import striking
from scenes import write_shards
from striking import Fault

from depth_anything_train import train as program
from depth_anything_train import trainer
from depth_anything_train.composition import compose
from depth_anything_train.run_folder import read_lines, read_metrics, run_key
from depth_anything_train.runtime import UserError
from depth_anything_train.signals import RUN_AGAIN
from depth_anything_train.train import less_memory, train

STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled shards, image shards and their pseudo labels."""
    from data_engine.engines.local import LocalEngine
    from data_engine.label import label
    from data_engine.labelling.labeller import ShardLabeller
    from data_engine.labelling.settings import LabelSettings
    from data_engine.labelling.teacher import ModelTeacher

    folder = tmp_path_factory.mktemp("data")
    labelled = write_shards(folder / "labelled", "labelled")
    images = write_shards(folder / "images", "images", first=100)
    train(
        compose("train", ["experiment=tiny_teacher", f"out={folder / 'teacher'}", f"labelled=[{labelled}]", "steps=2"])
    )
    labeller = ShardLabeller(ModelTeacher(folder / "teacher", device="cpu"), LabelSettings(size=28))
    label(labeller, images, folder / "labels", engine=LocalEngine())
    return [f"labelled=[{labelled}]", f"unlabelled=[{folder / 'labels'}]"]


def options(data, out, *more):
    every = ["checkpoint.every_n_steps=4", f"steps={STEPS}"]
    return ["experiment=tiny_student", f"out={out}", *data, *every, *more]


def test_train__folders_that_the_experiment_does_not_read_are_refused(data, tmp_path, monkeypatch, capsys):
    for given, said in (
        (["experiment=tiny_teacher", *data], "no unlabelled= for tiny_teacher, which reads labelled= alone"),
        (["experiment=v2_student_vits", *data], "no labelled= for v2_student_vits, which reads unlabelled= alone"),
    ):
        monkeypatch.setattr(sys, "argv", ["depth-anything", "train", *given, f"out={tmp_path / 'run'}", "steps=1"])
        with pytest.raises(SystemExit, match="2"):
            program.main()
        assert f"Expected {said}; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return train(compose("train", options(data, tmp_path_factory.mktemp("undisturbed") / "run")))


def start(arguments):
    command = [sys.executable, "-m", "depth_anything_train.cli", "train", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def kill_at(arguments, run, step):
    """Start training and kill it with SIGKILL two steps after the checkpoint of `step`."""
    assert striking.end(striking.start(compose("train", arguments), fault=Fault(signal.SIGKILL, "step", step + 2))) == [
        -9
    ]
    assert (run / "checkpoints" / f"step-{step:08d}.json").exists()
    assert not (run / "finished.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill__twice_and_continued_gives_bit_equal_weights_and_the_same_record(data, undisturbed, tmp_path, workers):
    run = tmp_path / "run"
    arguments = options(data, run, f"workers={workers}")
    for step in (4, 12):
        kill_at(arguments, run, step)
    assert train(compose("train", arguments)) == run
    assert weights(run) == weights(undisturbed)
    assert (run / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()


@pytest.mark.parametrize("workers, number", [(0, signal.SIGTERM), (2, signal.SIGINT)])
def test_signals__save_the_step_and_leave_with_the_status_that_means_run_me_again(
    data, undisturbed, tmp_path, workers, number
):
    run = tmp_path / "run"
    arguments = options(data, run, f"workers={workers}", "checkpoint.every_n_steps=1000", "log_every_n_steps=1")
    process = start(arguments)
    while not read_metrics(run / "metrics.jsonl"):
        assert process.poll() is None, process.stderr.read().decode()
    os.killpg(process.pid, number)  # to the loader's workers too, as a scheduler does
    assert process.wait() == RUN_AGAIN, process.stderr.read().decode()
    process.stderr.close()
    (saved,) = (run / "checkpoints").glob("*.ckpt")
    assert 1 <= int(saved.stem.removeprefix("step-")) < STEPS
    train(compose("train", arguments))
    assert weights(run) == weights(undisturbed)


class AskTwice(pl.Callback):
    """Ctrl-C, and at once again, at the sixth step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 5:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)


def test_second_ctrl_c__ends_at_once_as_an_interruption_and_the_last_checkpoint_stays(data, undisturbed, tmp_path):
    run, build = tmp_path / "run", program.build_trainer
    with pytest.MonkeyPatch.context() as changed:
        asked = lambda cfg, callbacks, **more: build(cfg, callbacks=[*callbacks, AskTwice()], **more)  # noqa: E731
        changed.setattr(program, "build_trainer", asked)
        with pytest.raises(KeyboardInterrupt):
            train(compose("train", options(data, run)))
    assert [path.stem for path in (run / "checkpoints").glob("*.ckpt")] == ["step-00000004"]
    train(compose("train", options(data, run)))
    assert weights(run) == weights(undisturbed)


def test_torn_checkpoint__the_one_before_it_is_taken(data, undisturbed, tmp_path):
    run = tmp_path / "run"
    kill_at(options(data, run), run, 12)
    newest = sorted((run / "checkpoints").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    train(compose("train", options(data, run)))
    assert weights(run) == weights(undisturbed)


def test_checkpoints__that_are_gone_are_told_and_the_run_begins_again(interrupted, tmp_path, capsys):
    keys, labelled = interrupted
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(compose("train", [*keys, f"labelled=[{labelled}]"]))
    assert "recorded 4 steps but holds no whole checkpoint; it begins again" in capsys.readouterr().err
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_finished__the_same_command_changes_nothing(data, undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    train(compose("train", options(data, undisturbed)))
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()} == before


def test_finished__a_model_that_was_deleted_is_written_again_from_the_last_checkpoint(data, undisturbed, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run / "model")
    train(compose("train", options(data, run)))
    assert weights(run) == weights(undisturbed)


def test_record__damaged_lines_cost_no_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "x": 2}\n{"st\n[]\n12\n{"a": 1}\n{"step": 2}\n\xff\xfe\n{"step": 3')
    assert read_lines(path) == [{"step": 1, "x": 2}, {"step": 2}]


def test_steps_without_provenance__are_not_gone_on_with(interrupted, tmp_path):
    keys, labelled = interrupted
    (tmp_path / "run" / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"provenance\.json is gone"):
        train(compose("train", [*keys, f"labelled=[{labelled}]", "optim.decoder_lr=5"]))


def test_provenance__that_is_damaged_is_named_with_advice_that_helps(interrupted, tmp_path):
    keys, labelled = interrupted
    (tmp_path / "run" / "provenance.json").write_text("")
    with pytest.raises(UserError, match=r"provenance\.json is damaged: .*; put it back from a copy, or choose another"):
        train(compose("train", [*keys, f"labelled=[{labelled}]"]))


def test_other_configuration__is_refused_in_the_same_folder(data, undisturbed):
    with pytest.raises(UserError, match=r"another configuration \(size was 28, is 42; seed was 0, is 1\); choose"):
        train(compose("train", options(data, undisturbed, "seed=1", "size=42", "workers=1")))


def test_config__that_is_damaged_is_named(interrupted, tmp_path):
    keys, labelled = interrupted
    for damaged in ("size: [", "- size"):
        (tmp_path / "run" / "config.yaml").write_text(damaged)
        with pytest.raises(UserError, match="config.yaml, which says what this run is, is damaged or gone"):
            train(compose("train", [*keys, f"labelled=[{labelled}]", "size=42"]))


GIVEN = ["experiment=tiny_teacher", "out=run", "labelled=[a]"]


@pytest.fixture(scope="module")
def key():
    return run_key(compose("train", GIVEN))


@pytest.mark.parametrize(
    "change",
    ["workers=1", "data.cache_mb=0", "out=elsewhere", "model.attention=xformers", "max_per_device=2", "trainer=default",
     "trainer=fsdp", "trainer.devices=2", "log_every_n_steps=7", "+trainer.benchmark=true"],
)  # fmt: skip
def test_run_key__is_the_same_where_no_number_changes(key, change):
    assert run_key(compose("train", [*GIVEN, change])) == key


@pytest.mark.parametrize(
    "change",
    ["seed=1", "size=42", "+trainer.gradient_clip_val=0.5", "+trainer.overfit_batches=1", "precision=bf16-mixed",
     "trainer.precision=bf16-mixed", "trainer.max_steps=3"],
)  # fmt: skip
def test_run_key__is_another_where_a_number_changes(key, change):
    assert run_key(compose("train", [*GIVEN, change])) != key


def interrupt(run):
    """Take a finished run of four steps back to its checkpoint of the second."""
    for name in ("finished.json", "checkpoints/step-00000004.json", "checkpoints/step-00000004.ckpt"):
        (run / name).unlink()


def test_continued__batches_divided_otherwise_are_refused_where_the_loss_is_over_several_images(tmp_path):
    """Two devices take what one takes in two parts, so that it is the number of parts that counts."""
    labelled = write_shards(tmp_path / "labelled", "labelled")
    given = ["experiment=tiny_metric", f"out={tmp_path / 'run'}", f"labelled=[{labelled}]", "steps=4",
             "checkpoint.every_n_steps=2"]  # fmt: skip
    run = train(compose("train", [*given, "max_per_device=2"]))
    interrupt(run)
    with pytest.raises(UserError, match="divided each batch into 2, .* would go on with 1"):
        train(compose("train", given))
    train(compose("train", [*given, "max_per_device=3"]))
    assert (run / "finished.json").exists()


def test_less_memory__does_not_advise_what_would_be_another_loss():
    advice = {name: less_memory(compose("train", [f"experiment={name}", "out=x"]))
              for name in ("tiny_teacher", "tiny_metric", "tiny_segmentation")}  # fmt: skip
    assert "max_per_device=), recompute" in advice["tiny_teacher"]
    assert "max_per_device=, more devices) in another out=" in advice["tiny_metric"]
    assert advice["tiny_segmentation"] == advice["tiny_metric"]


@pytest.fixture
def interrupted(tmp_path):
    """Keys of a run that stands at step 2 of 4, and what it is trained on."""
    labelled = write_shards(tmp_path / "labelled", "labelled")
    keys = ["experiment=tiny_teacher", f"out={tmp_path / 'run'}", "steps=4", "checkpoint.every_n_steps=2"]
    interrupt(train(compose("train", [*keys, f"labelled=[{labelled}]"])))
    return keys, labelled


def test_continued__in_another_precision_it_is_told_and_recorded(interrupted, tmp_path, monkeypatch, capsys):
    """`auto` means another one on another machine."""
    keys, labelled = interrupted
    before = trainer.choose_precision("auto", "cpu")
    (now,) = {"bf16-mixed", "32-true"} - {before}
    recorded = tmp_path / "run" / "model" / "model.json"
    assert json.loads(recorded.read_text())["extra"]["precision"] == before
    monkeypatch.setattr(trainer, "choose_precision", lambda *_: now)
    train(compose("train", [*keys, f"labelled=[{labelled}]"]))
    assert f"computed in {before} so far and goes on in {now}" in " ".join(capsys.readouterr().err.split())
    assert json.loads(recorded.read_text())["extra"]["precision"] == now


def test_moved_samples__are_gone_on_with_by_whatever_path(interrupted, tmp_path, capsys):
    keys, labelled = interrupted
    moved = labelled.rename(tmp_path / "moved")
    interrupt(train(compose("train", [*keys, f"labelled=[{moved}/]"])))
    (tmp_path / "link").symlink_to(moved)
    for path in (tmp_path / "link", os.path.relpath(moved)):
        train(compose("train", [*keys, f"labelled=['{path}']"]))
    assert "is finished" in capsys.readouterr().err  # the second time
    assert [row["step"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_other_samples__are_refused_by_the_same_path_and_by_another(interrupted, tmp_path):
    keys, labelled = interrupted
    other = write_shards(tmp_path / "other", "labelled", first=50)
    with pytest.raises(
        UserError, match=rf"The labelled samples are not .* \(labelled was .*, is \['{other}'\]\): other"
    ):
        train(compose("train", [*keys, f"labelled=[{other}]"]))
    (labelled / "bad_keys.jsonl").write_text('{"shard": "shard-000000.tar", "number": 1, "reason": "constant_label"}')
    with pytest.raises(UserError, match="The labelled samples are not those that .*run began with: .*bad keys"):
        train(compose("train", [*keys, f"labelled=[{labelled}]"]))
    (labelled / "bad_keys.jsonl").unlink()
    assert train(compose("train", [*keys, f"labelled=[{labelled}]"])) == tmp_path / "run"
    with pytest.raises(UserError, match="The labelled samples are not"):  # nor is it finished with these
        train(compose("train", [*keys, f"labelled=[{other}]"]))


def test_train__refused_before_its_first_step_leaves_the_folder_to_the_next(tmp_path):
    labelled = write_shards(tmp_path / "labelled", "labelled")
    given = ["experiment=tiny_teacher", f"out={tmp_path / 'run'}", f"labelled=[{labelled}]", "steps=1"]
    with pytest.raises(UserError, match="multiples of the patch size"):
        train(compose("train", [*given, "size=100"]))
    train(compose("train", given))
    with pytest.raises(UserError, match="run of another configuration"):
        train(compose("train", [*given, "size=42"]))


class Fails(pl.Callback):
    """Ends a training in its first step."""

    def on_train_batch_start(self, *_):
        raise UserError("The first batch cannot be had.")


def test_train__that_failed_in_its_first_step_leaves_nothing_to_be_mistaken_for_the_next(tmp_path, monkeypatch):
    labelled = write_shards(tmp_path / "labelled", "labelled")
    held_out = write_shards(tmp_path / "held_out", "labelled", counts=(2,), first=50)
    data = [f"labelled=[{labelled}]", f"validation=[{held_out}]"]
    given = ["experiment=tiny_teacher", f"out={tmp_path / 'run'}", *data, "steps=1"]
    judged = tmp_path / "run" / "validation" / "metrics.jsonl"
    with monkeypatch.context() as patch:
        build = program.build_trainer
        failing = lambda cfg, callbacks, **more: build(cfg, callbacks=[Fails(), *callbacks], **more)  # noqa: E731
        patch.setattr(program, "build_trainer", failing)
        with pytest.raises(UserError, match="first batch cannot"):
            train(compose("train", given))
    (before,) = read_metrics(judged)
    train(compose("train", [*given, "seed=1"]))
    start, end = read_metrics(judged)
    assert (start["step"], end["step"]) == (0, 1) and start["abs_rel"] != before["abs_rel"]
