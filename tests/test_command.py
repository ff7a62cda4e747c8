import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from depth_anything_train.command import _apart, command, read_command_line
from depth_anything_train.command_help import command_help
from depth_anything_train.composition import compose, config_folder
from depth_anything_train.runtime import UserError
from depth_anything_train.values import check_inputs


def program(*arguments, **options):
    command = [sys.executable, "-m", "depth_anything_train.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def commands():
    return {entry.name for entry in entry_points(group="depth_anything.commands")}


def test_commands__have_a_config_each():
    assert commands()
    assert all((config_folder(name) / f"{name}.yaml").is_file() for name in commands())


def test_program__without_a_command_says_what_each_command_is_for():
    result = program("--help")
    assert result.returncode == 0
    said = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert said.keys() == commands()


@pytest.fixture
def here(monkeypatch):
    """The exit status of a command in this process, which has imported its libraries already."""

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["depth-anything", name, *map(str, arguments)])
        try:
            entry_points(group="depth_anything.commands")[name].load()()
        except SystemExit as end:
            return end.code
        return 0

    return call


@pytest.mark.parametrize("name", sorted(commands()))
def test_help__has_every_key_with_its_comment_and_every_choice_but_what_others_build_on(name):
    text, folder = command_help(name), config_folder(name)
    assert (folder / f"{name}.yaml").read_text().rstrip() in text
    listed = {word.strip(",").rpartition("/")[2] for line in text.splitlines() for word in line.split()}
    choices = [path.relative_to(folder) for path in folder.rglob("*.yaml") if path.parent != folder]
    private = {path.stem for path in choices if any(part.startswith("_") for part in path.parts)}
    public = {path.stem for path in choices} - private
    assert public <= listed and not {name for name in private if name.startswith("_")} & listed


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("evaluate", [], "# benchmark= moge/ddad"),
        ("train", [], "# data/cutmix= paper"),
        ("train", [], "# loss@PLACE= affine_invariant"),
        ("prepare", ["dataset=pairs", "--help"], "# -- dataset=pairs, keys of dataset."),
        ("prepare", ["dataset=pairs", "--help"], "\nscale: null "),
        ("run", ["pipeline=folders"], "\npairs: ???  # folder"),
    ],
)
def test_help__shows_choices_as_they_are_typed_and_the_keys_of_those_that_are_made(name, arguments, told):
    assert told in command_help(name, arguments)


def test_help__is_printed_without_a_choice_and_the_libraries_of_the_command():
    result = program("train", "--help")
    assert result.returncode == 0 and "steps: ???  " in result.stdout and "experiment: " in result.stdout


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


def test_command__takes_keys_behind_an_option(here, tmp_path, capsys):
    assert here("prepare", "dataset=procedural", "--cfg", "job", "out=x", "count=7") == 0
    assert "count: 7" in capsys.readouterr().out
    assert here("prepare", "dataset=procedural", "--cfg", "job", "~seed", "out=x") == 0
    assert "seed:" not in capsys.readouterr().out.partition("dataset:")[0]


def test_command__runs_with_each_of_several_values_where_hydra_is_asked_to(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    several = ("count=1,2", "out='shards/${count}'", "workers=0", "--multirun")
    assert here("prepare", "dataset=procedural", *several) == 0
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["1", "2"]
    assert os.listdir(tmp_path) == ["shards"]


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("--cfg job a=1 ~b", ["a=1", "~b"]),
        ("-cd x=y a=1", ["a=1"]),
        ("-m a=1,2 --config-name=other b=2", ["a=1,2", "b=2"]),
        ("word a=1", ["a=1"]),
    ],
)
def test_apart__an_option_keeps_its_value(typed, keys):
    found, options = _apart(typed.split())
    assert found == keys and options == [word for word in typed.split() if word not in keys]


def test_command__shows_a_config_without_running_it(here, tmp_path, capsys):
    assert here("train", "experiment=tiny_teacher", f"out={tmp_path / 'run'}", "--cfg", "job") == 0
    assert "optim" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prepare dataset=images out={0}", "`prepare` needs a value for root"),
        ("evaluate model=x data={0} out={0}/file", "Expected a folder to write to as out"),
    ],
)
def test_command__a_missing_key_and_a_place_that_cannot_be_written_to_are_one_sentence(
    line, said, here, tmp_path, capsys
):
    (tmp_path / "file").touch()
    assert here(*line.format(tmp_path).split()) == 2
    assert said in capsys.readouterr().err


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


class Dies(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_command__a_loading_process_that_is_killed_is_one_sentence(monkeypatch, capsys):
    loader = DataLoader(Dies(), num_workers=1, multiprocessing_context="fork")
    main = command("report")(lambda cfg: list(loader))
    monkeypatch.setattr(sys, "argv", ["depth-anything"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: `report` lost a process that loads images \(it .*(Kill|exited).*\n", said), said


def interrupt():
    raise KeyboardInterrupt


def test_command__ctrl_c_is_one_sentence(monkeypatch, capsys):
    main = command("report")(lambda cfg: interrupt())
    monkeypatch.setattr(sys, "argv", ["depth-anything"])
    with pytest.raises(SystemExit, match="130"):
        main()
    assert capsys.readouterr().err == "error: `report` was interrupted; nothing finished is lost, run it again.\n"


def test_command__writes_to_the_home_folder_where_quotes_kept_it_from_the_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["depth-anything", "out='~/report.html'"])
    found = []
    command("report")(lambda cfg: found.append(cfg.out))()
    assert found == [f"{tmp_path}/report.html"]


@pytest.mark.parametrize(("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
def test_program__asked_to_stop_takes_its_workers_along_and_leaves_nothing_unfinished(number, send, tmp_path):
    keys = ("dataset=procedural", "count=10000", "samples_per_shard=1000", "workers=2", f"out={tmp_path / 'out'}")
    program = [sys.executable, "-m", "depth_anything_train.cli", "prepare", *keys]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a script have it ignored
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(tmp_path.glob("out/.*.tmp"))) < 2:  # both are at a shard that takes them minutes
        assert process.poll() is None
        time.sleep(0.05)
    send(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 75
    assert errors == "`prepare` was asked to stop; run the same command again.\n"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "choices"),
    [("run", ["pipeline=quickstart"]), ("run", ["pipeline=metric"]), ("ablate", ["table=v1_table9"])],
)
def test_read_command_line__names_the_place_after_a_choice(name, choices, capsys):
    cfg = read_command_line(name, choices)
    chosen = "world" if name == "ablate" else choices[0].partition("=")[2]
    assert cfg.out.endswith(f"/{chosen}") and "hydra" not in cfg
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        read_command_line(name, [*choices, "typo=1"])


def test_read_command_line__leaves_options_to_hydra():
    assert read_command_line("train", ["--cfg", "job", "typo=1"]) is None


def test_program__starts_without_torch():
    """`run`, `prepare` and their worker processes need none of it, and it takes seconds to import."""
    code = "import sys, depth_anything_train.pipeline, data_engine.prepare; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_program__answers_mistakes_before_it_imports_torch(tmp_path):
    lines = {
        "train experiment=typo out=x": "experiment=typo is not known",
        "train experiment=tiny_teacher labeled=[a] out=x": "labeled is no key of `train`; did you mean labelled?",
        "train experiment=tiny_teacher labelled=[missing] out=x": "Expected labelled to name what is there, but",
        "doctor experiment=tiny_teacher unlabelled=[missing]": "Expected unlabelled to name what is there, but",
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


@pytest.mark.parametrize("out", ["{home}/run", "'~/run'"])
def test_read_command_line__a_finished_training_reads_nothing(tmp_path, monkeypatch, out):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["experiment=tiny_teacher", "labelled=[gone]", f"out={out.format(home=tmp_path)}"]
    with pytest.raises(SystemExit):
        read_command_line("train", arguments)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "finished.json").touch()
    assert read_command_line("train", arguments).out == f"{tmp_path}/run"


def test_check_inputs__leaves_addresses_patterns_and_cameras_to_those_who_read_them(tmp_path):
    (tmp_path / "photos").mkdir()
    for source in ("rtsp://camera/1", f"'{tmp_path}/*.jpg'", "0", f"{tmp_path}/photos"):
        check_inputs("predict", compose("predict", ["model=m", "out=x", f"source={source}"]))
    check_inputs("evaluate", compose("evaluate", ["model=m", "out=x", "suite=v1_table2", "data={kitti: missing}"]))
    with pytest.raises(UserError, match="Expected shards to name what is there, but .*none does not exist"):
        check_inputs("verify", compose("verify", [f"shards={tmp_path}/none"]))
