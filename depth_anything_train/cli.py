"""The one program: `depth-anything COMMAND key=value ...`.

Commands are found through the entry-point group `depth_anything.commands`, so that the engine's join the library's.
"""

from __future__ import annotations

import difflib
import os
import shlex
import signal
import sys
from contextlib import nullcontext
from importlib.metadata import entry_points

from depth_anything_train.runtime import COMMAND_LINE, console
from depth_anything_train.signals import (
    INTERRUPTED,
    RUN_AGAIN,
    STOP_SIGNALS,
    die_with_parent,
    hold_signals,
    leaving_at_once,
    leaving_on_request,
)

GROUP = "depth_anything.commands"

LISTENERS = ("train",)
"""Commands that answer a request to stop themselves, also one that came while they were being imported."""

REQUEUED = ("label", "leaks", "prepare", "verify")
"""Commands that may be left anywhere, while they start too, and then ask their scheduler to run them again."""

USAGE = """\
usage: depth-anything COMMAND key=value ...

{commands}

depth-anything COMMAND --help       the keys of a command
depth-anything COMMAND --cfg job    what it would run with, without running it
"""

SUMMARIES = {
    "run": "a named list of stages, e.g. run pipeline=quickstart; finished stages are skipped",
    "prepare": "raw data set or folder -> shards with an index",
    "label": "teacher + image shards -> pseudo-label shards",
    "verify": "read shards back: checksums, counts, label statistics, contact sheet",
    "leaks": "which training images are also in a test set: perceptual hashes -> a list and a page",
    "plan": "GPU hours, storage and cost of labelling and training on a stated cluster",
    "doctor": "will a recipe train here? labels, overfitting one batch, precision, speed",
    "train": "any stage of training: train experiment=...",
    "evaluate": "a model on labelled shards, or through a table of the papers -> numbers and a page",
    "segment": "a segmenter on segmented shards -> mIoU beside the papers', a page",
    "predict": "photographs, video, camera or stream -> pictures, 16-bit, npy, control maps, point clouds",
    "export": "a model -> Hugging Face folder, released .pth, ONNX",
    "app": "the web page: drop a photograph or video, look, download",
    "ablate": "the trainings behind a table of the papers, run or resumed, and then the table",
    "report": "what ran, curves, tables and pictures -> one HTML page",
}


def main() -> None:
    """Find the command named first on the command line and hand the rest over to it."""
    die_with_parent()
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        order = sorted(commands, key=lambda name: (*SUMMARIES, name).index(name))
        lines = "\n".join(f"  {name:<10} {SUMMARIES.get(name, '')}" for name in order)
        print(USAGE.format(commands=lines))
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(sorted(commands))}."
        console.print(f"error: {name} is no command; {hint}", style="bold red")
        sys.exit(2)
    if {"-h", "--help"} & set(arguments):
        from depth_anything_train.command_help import command_help

        print(command_help(name, arguments[1:]))
        return
    os.environ[COMMAND_LINE] = shlex.join(["depth-anything", *arguments])
    interrupted = f"`{name}` was interrupted before it began."
    numbers, status = (STOP_SIGNALS, RUN_AGAIN) if name in REQUEUED else ([signal.SIGINT], INTERRUPTED)
    with leaving_on_request() if name in REQUEUED else nullcontext():
        with leaving_at_once(numbers, status, interrupted):
            if name in LISTENERS:
                hold_signals()
            from depth_anything_train.command import read_command_line  # Hydra: a list of commands needs none

            cfg = read_command_line(name, arguments[1:])
            command = commands[name].load()
        try:
            command(cfg)
        except SystemExit as end:
            if name in REQUEUED and end.code == RUN_AGAIN:
                console.print(f"`{name}` was asked to stop; run the same command again.", style="bold red")
            raise


if __name__ == "__main__":
    main()
