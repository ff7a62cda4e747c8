import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from depth_anything_train.command import as_override, build, command, compose, config_folder
from depth_anything_train.runtime import UserError
from depth_anything_train.values import check_inputs


def program(*arguments, **options):
    command = [sys.executable, "-m", "depth_anything_train.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_compose__an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"samples_per_shart is no key of `prepare`; did you mean samples_per_shard\?"):
        compose("prepare", ["dataset=images", "root=x", "samples_per_shart=3"])


def test_compose__an_unknown_nested_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"did you mean checkpoint.every_n_steps\?"):
        compose("train", ["experiment=tiny_teacher", "checkpoint.every_n_step=3"])


def test_compose__an_unknown_choice_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"dataset=imagez is not known; did you mean dataset=images\?.*pairs"):
        compose("prepare", ["dataset=imagez"])


def test_compose__a_missing_choice_lists_the_choices():
    with pytest.raises(UserError, match="experiment.*tiny_teacher"):
        compose("train", [])


def test_compose__text_that_is_no_override_is_named():
    with pytest.raises(UserError, match="'root' cannot be read: expected key=value"):
        compose("prepare", ["dataset=images", "root"])


def test_build__refuses_targets_that_are_not_on_the_list():
    with pytest.raises(UserError, match="os.system"):
        build(OmegaConf.create({"inner": [{"_target_": "os.system", "command": "true"}]}))


@pytest.mark.parametrize(
    "target", ["runtime.subprocess.getoutput", "runtime.subprocess.Popen", "runtime.write_bytes", "command.hydra.main"]
)
def test_build__refuses_what_modules_on_the_list_import_and_functions_that_act(target):
    with pytest.raises(UserError, match=f"may build classes of .* names _target_: depth_anything_train.{target}"):
        build(OmegaConf.create({"_target_": f"depth_anything_train.{target}"}))


def test_build__a_target_that_does_not_exist_is_named():
    for target in ("depth_anything_train.losses.nothing.Loss", "depth_anything_train.losses.silog.Nothing"):
        with pytest.raises(UserError, match=f"names _target_: {target}, which does not exist"):
            build(OmegaConf.create({"_target_": target}))


SILOG = {"_target_": "depth_anything_train.losses.silog.SILog"}


def test_build__makes_what_is_on_the_list():
    assert build(OmegaConf.create(SILOG | {"keep": 0.5})).keep == 0.5


def test_build__a_mistake_inside_a_constructor_comes_out_as_it_is(monkeypatch):
    """Who adds a loss needs its traceback; a sentence is for settings."""

    class Broken(nn.Module):
        def __init__(self, size=1):
            len(size)

    Broken.__module__ = "depth_anything_train.losses.silog"
    monkeypatch.setattr("depth_anything_train.losses.silog.SILog", Broken)
    for node, arguments in ((SILOG, {"size": 2}), ({"inner": SILOG}, {})):
        with pytest.raises(TypeError, match="has no len") as caught:
            build(OmegaConf.create(node), **arguments)
        assert caught.traceback[-1].name == "__init__"


def commands():
    return {entry.name for entry in entry_points(group="depth_anything.commands")}


def test_config_folder__holds_a_config_for_every_command():
    assert commands()
    assert all((config_folder(name) / f"{name}.yaml").is_file() for name in commands())


def test_program__without_a_command_says_what_each_command_is_for():
    result = program("--help")
    assert result.returncode == 0
    said = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert said.keys() == commands()


@pytest.mark.parametrize("name", ["train", "predict"])
def test_program__help_needs_no_choice_first(name, tmp_path):
    result = program(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "out: ???" in result.stdout


@pytest.mark.parametrize(
    ("name", "number", "status"),
    [("label", signal.SIGTERM, 75), ("label", signal.SIGINT, 75), ("train", signal.SIGINT, 130)],
)
def test_program__asked_to_stop_while_it_starts_ends_without_a_traceback(name, number, status):
    process = subprocess.Popen([sys.executable, "-m", "depth_anything_train.cli", name], stderr=subprocess.PIPE)
    mask = "SigCgt" if name == "label" else "SigBlk"  # what it hears, or holds back, from when it imports the command
    while not _signals(process.pid, mask) >> (signal.SIGTERM - 1) & 1:
        assert process.poll() is None
    process.send_signal(number)
    assert "Traceback" not in process.communicate(timeout=60)[1].decode() and process.returncode == status


def _signals(pid, mask):
    with open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith(mask)).split()[1], 16)


def test_program__an_unknown_command_names_the_nearest():
    result = program("trian")
    assert result.returncode == 2
    assert "did you mean train?" in result.stderr


def test_program__a_missing_value_is_one_sentence_and_status_2(tmp_path):
    result = program("prepare", "dataset=images", f"root={tmp_path}", cwd=tmp_path)
    assert result.returncode == 2
    assert "needs a value for out" in result.stderr
    assert "Traceback" not in result.stderr


def test_program__shows_a_config_without_running_it(tmp_path):
    result = program("train", "experiment=tiny_teacher", f"out={tmp_path / 'run'}", "--cfg", "job")
    assert result.returncode == 0
    assert "optim" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "my folder/it's, (new) [x] = \\ ü",
        "a\\",
        "",
        ["a", "b c"],
        {"day": "x/y", "k-2": ["*-day"]},
        None,
        True,
        3,
        0.5,
        "3",
    ],
)
def test_as_override__any_value_comes_back_equal(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(as_override("key", value)).value()
    assert parsed == value or str(parsed) == value


def test_compose__a_folder_with_commas_is_told_how_to_be_quoted():
    with pytest.raises(UserError, match=r"""write "root='a, \[b\]'\""""):
        compose("prepare", ["dataset=images", "root=a, [b]"])


def test_compose__keys_in_a_list_are_told_how_to_be_quoted():
    with pytest.raises(UserError) as refused:
        compose("doctor", ["experiment=tiny_student", "overrides=[size=56,compile=false]"])
    proposed = shlex.split(str(refused.value).partition("; write ")[2].removesuffix("."))
    assert compose("doctor", ["experiment=tiny_student", *proposed]).overrides == ["size=56", "compile=false"]


def test_compose__an_unknown_key_is_found_beside_keys_without_a_value():
    with pytest.raises(UserError, match="foo is no key of `run`"):
        compose("run", ["foo=3"])


def test_build__settings_that_do_not_fit_are_one_sentence():
    for node in (SILOG | {"foo": 2}, {"inner": SILOG | {"foo": 2}}):
        with pytest.raises(UserError, match="silog.SILog do not fit: .*unexpected keyword argument 'foo'"):
            build(OmegaConf.create(node))
    passed_on = {"_target_": "depth_anything_train.tasks.metric.MetricTask", "depth": SILOG, "weights": {}, "foo": 2}
    with pytest.raises(UserError, match="MetricTask do not fit: .*unexpected keyword argument 'foo'"):
        build(OmegaConf.create(passed_on), model=None, optim=None, steps=1)
    with pytest.raises(UserError, match="Trainer do not fit: .*accelerator"):
        build(OmegaConf.create({"_target_": "pytorch_lightning.Trainer", "accelerator": "abacus"}), logger=False)


def test_program__a_missing_key_behind_another_is_named(tmp_path):
    result = program("prepare", "dataset=images", f"out={tmp_path}")
    assert result.returncode == 2
    assert "`prepare` needs a value for root" in result.stderr
    assert "Traceback" not in result.stderr


def test_program__a_place_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    result = program("predict", "model=x", f"source={tmp_path}", f"out={tmp_path / 'file'}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")


@pytest.mark.parametrize(
    ("allocate", "wanted"),
    [(lambda: torch.empty(2**60), f"{2**62} bytes"), (of_a_gpu, "2.00 GiB")],
    ids=["processor", "gpu"],
)
def test_command__a_lack_of_memory_is_one_sentence_with_what_to_do(allocate, wanted, monkeypatch, capsys):
    main = command("report", short_of_memory="report on less")(lambda cfg: allocate())
    monkeypatch.setattr(sys, "argv", ["depth-anything"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = f"error: `report` needs more memory than its device has (it tried to allocate {wanted}): report on less.\n"
    assert capsys.readouterr().err == said


def test_program__ctrl_c_is_one_sentence(tmp_path):
    keys = ("dataset=procedural", "count=10000", "samples_per_shard=10", "workers=1", f"out={tmp_path / 'out'}")
    command = [sys.executable, "-m", "depth_anything_train.cli", "prepare", *keys]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a script have it ignored
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("out/*.idx")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: `prepare` was interrupted") and "Traceback" not in errors


def test_program__starts_without_torch():
    """`run`, `prepare` and their worker processes need none of it, and it takes seconds to import."""
    code = "import sys, depth_anything_train.pipeline, data_engine.prepare; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_program__answers_mistakes_before_it_imports_torch(tmp_path):
    lines = {
        "train experiment=typo out=x": "experiment=typo is not known",
        "train experiment=tiny_teacher labeled=[a] out=x": "labeled is no key of `train`; did you mean labelled?",
        "label teacher=t shards=missing out=x": "Expected shards to name what is there, but missing does not exist",
        "evaluate model=m data={kitti:missing} out=x": "Expected data to name what is there, but missing does not",
        "predict model=m source=missing.jpg out=x": "Expected source to name what is there, but missing.jpg does not",
    }
    code = (
        "import sys; from depth_anything_train.cli import main\n"
        f"for line in {[*lines]}:\n"
        "    sys.argv = ['depth-anything', *line.split()]\n"
        "    try: main()\n"
        "    except SystemExit as end: print(end.code)\n"
        "print('torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.split() == ["2"] * len(lines) + ["False"], result.stderr
    for said, expected in zip(result.stderr.split("error: ")[1:], lines.values(), strict=True):
        assert said.startswith(expected)


def test_check_inputs__leaves_addresses_patterns_and_cameras_to_those_who_read_them(tmp_path):
    (tmp_path / "photos").mkdir()
    for source in ("rtsp://camera/1", f"'{tmp_path}/*.jpg'", "0", f"{tmp_path}/photos"):
        check_inputs("predict", compose("predict", ["model=m", "out=x", f"source={source}"]))
    check_inputs("evaluate", compose("evaluate", ["model=m", "out=x", "suite=v1_table2", "data={kitti: missing}"]))
    with pytest.raises(UserError, match="Expected shards to name what is there, but .*none does not exist"):
        check_inputs("verify", compose("verify", [f"shards={tmp_path}/none"]))
