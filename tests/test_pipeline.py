import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from depth_anything_train.composition import compose
from depth_anything_train.pipeline import Stage, plan, run_pipeline
from depth_anything_train.runtime import UserError, fingerprint
from depth_anything_train.signals import RUN_AGAIN


def config():
    stages = {"first": {"command": "prepare", "args": {"a": 1}}, "last": {"command": "train", "args": {"c": 3}}}
    return OmegaConf.create({"out": "runs/x", "stages": stages})


@pytest.mark.parametrize("overrides", [["pipeline=quickstart"], ["pipeline=folders", "pairs=a", "photos=b"]])
def test_plan__of_a_chain_prepares_before_it_trains_and_reports_last(overrides):
    commands = [stage.arguments[0] for stage in plan(compose("run", ["out=x", *overrides]))]
    chain = commands[commands.index("train") :]
    assert set(commands[: -len(chain)]) == {"prepare"}
    assert chain == ["train", "label", "train", "evaluate", "evaluate", "evaluate", "report"]


def test_plan__a_stage_changes_with_the_stages_before_it():
    before = plan(config())
    cfg = config()
    cfg.stages.first.args.a = 2
    after = plan(cfg)
    assert before[0].key != after[0].key and before[1].key != after[1].key
    assert before[1].arguments == after[1].arguments


def test_plan__a_stage_may_have_no_root():
    cfg = config()
    cfg.stages.first.args.root = None
    assert plan(cfg)[0].reads is None


@pytest.mark.parametrize("given", [1, {"command": "train"}, {"args": {}}, {"command": "train", "args": None}, None])
def test_plan__a_stage_without_a_command_or_arguments_is_refused_by_name(given):
    cfg = config()
    cfg.stages.mine = given
    with pytest.raises(UserError, match="Expected `command` and `args` for stages.mine, but got"):
        plan(cfg)


def test_plan__shows_what_a_user_would_type():
    assert plan(config())[0].shown == "depth-anything prepare a=1"


def stage(name, *arguments):
    return Stage(name, arguments, fingerprint(arguments))


def shows(name, count=1):
    """A stage that ends well and writes nothing, and need not import torch for it."""
    return stage(name, "prepare", "dataset=procedural", f"count={count}", "out=x", "--cfg", "job")


def test_run__finished_stages_are_skipped_and_a_failed_one_is_named(tmp_path, capsys):
    good = shows("good")
    bad = stage("bad", "verify", f"shards={tmp_path / 'none'}")
    with pytest.raises(UserError, match="stage bad ended with status 2.*depth-anything verify"):
        run_pipeline([good, bad], tmp_path / "out")
    mark = tmp_path / "out" / "stages" / "01-good.json"
    assert json.loads(mark.read_text())["command"].startswith("depth-anything prepare")
    assert not (tmp_path / "out" / "stages" / "02-bad.json").exists()

    written = mark.stat().st_mtime_ns
    run_pipeline([good], tmp_path / "out")
    assert mark.stat().st_mtime_ns == written
    assert "good: finished before" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_run__a_stage_that_just_ends_when_it_is_asked_to_is_to_be_run_again(tmp_path, number):
    threading.Timer(1, os.kill, [os.getpid(), number]).start()
    keys = ["dataset=procedural", "count=9999", "workers=0", f"out={tmp_path / 'shards'}"]
    with pytest.raises(SystemExit) as left:
        run_pipeline([stage("long", "prepare", *keys)], tmp_path)
    assert left.value.code == RUN_AGAIN


def test_run__ctrl_c_in_a_stage_without_a_state_to_save_wants_to_be_run_again(tmp_path):
    keys = ("dataset=procedural", "count=9999", "samples_per_shard=2", "workers=0", f"out={tmp_path / 'shards'}")
    code = (
        "from pathlib import Path; from depth_anything_train.pipeline import Stage, run_pipeline\n"
        f"run_pipeline([Stage('long', {('prepare', *keys)}, 'key')], Path({str(tmp_path)!r}))"
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a script have it ignored
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("shards/*.idx")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == RUN_AGAIN and "Traceback" not in errors, errors


def test_run__a_stage_that_a_signal_to_all_processes_ends_is_to_be_run_again(tmp_path):
    code = (
        "from pathlib import Path; from depth_anything_train.pipeline import Stage, run_pipeline\n"
        f"run_pipeline([Stage('page', ('report', 'out=x', '--cfg', 'job'), 'key')], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # the stage is being started, and listens to nobody yet
    os.killpg(process.pid, signal.SIGUSR1)  # as a scheduler does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == RUN_AGAIN and "Traceback" not in errors, errors


def test_run__no_stage_is_started_after_a_request_to_stop(tmp_path):
    first, second = shows("first"), shows("second")
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()  # the stage does not hear it, and ends well
    with pytest.raises(SystemExit) as left:
        run_pipeline([first, second], tmp_path)
    assert left.value.code == RUN_AGAIN
    assert not [*(tmp_path / "stages").glob("02-*")]


def test_run__raw_data_that_a_later_stage_lacks_is_missed_before_the_first(tmp_path):
    made, raw = dataclasses.replace(shows("made"), out=tmp_path / "made"), tmp_path / "raw"
    (tmp_path / "link").symlink_to(tmp_path)
    own = dataclasses.replace(shows("own"), reads=tmp_path / "link" / "made" / "part")  # which an earlier stage makes
    late = dataclasses.replace(shows("late"), reads=raw)
    for last in (late, dataclasses.replace(late, out=raw)):  # no stage makes what it reads itself
        with pytest.raises(UserError, match=f"Expected {raw}, which stage late reads, but it does not exist"):
            run_pipeline([made, own, last], tmp_path / "out")
    assert not [*(tmp_path / "out" / "stages").iterdir()]
    raw.mkdir()
    run_pipeline([made, own, late], tmp_path / "out")
    raw.rmdir()
    run_pipeline([made, own, late], tmp_path / "out")  # all that read it are finished


def test_run__a_stage_whose_result_is_gone_runs_again(tmp_path, capsys):
    made = tmp_path / "made"
    made.mkdir()
    one = dataclasses.replace(shows("s"), out=made)
    for there in (True, True, False):
        if not there:
            made.rmdir()
        capsys.readouterr()
        run_pipeline([one], tmp_path / "run")
    assert "finished before" not in capsys.readouterr().err


def test_run__a_stage_with_other_arguments_runs_again(tmp_path):
    for count in (28, 42):
        run_pipeline([shows("s", count)], tmp_path)
        assert f"count={count}" in (tmp_path / "stages" / "01-s.json").read_text()
