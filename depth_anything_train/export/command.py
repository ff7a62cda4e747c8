"""`depth-anything export`: a model for other programs - a Hugging Face folder, the released layout, an ONNX file."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig

from depth_anything_train.command import command
from depth_anything_train.export.onnx import check_onnx, export_onnx
from depth_anything_train.files import require_writable
from depth_anything_train.inference.depth_anything import DepthAnything, Format
from depth_anything_train.metrics.results import other_setup, read_results
from depth_anything_train.models import checkpoints, huggingface
from depth_anything_train.runtime import UserError, console

QUOTED = {"caption": str, "groups": dict, "mean": dict, "images": int}
"""What a model card takes over of the results of `evaluate`."""

FORMATS = (*get_args(Format), "onnx")
FILES = {
    "native": checkpoints.FILES,
    "hf": (huggingface.WEIGHTS, huggingface.CONFIG, huggingface.PROCESSOR, huggingface.CARD),
    "original": ("*.pth",),
}
"""What each format consists of."""


KEYS = {"size": "onnx", "batch_size": "onnx", "licence": "hf", "results": "hf"}
"""Keys that one format alone reads."""


@command("export")
def main(cfg: DictConfig) -> None:
    """Write `cfg.model` to `cfg.out` as `cfg.format`, or compare the ONNX file `cfg.check` with it."""
    if cfg.check is not None:
        difference = check_onnx(Path(cfg.check).expanduser(), _model(cfg))
        console.print(f"{cfg.check}: the model's numbers to {difference:.1e} of the largest value.", soft_wrap=True)
        return
    out = Path(cfg.out)
    check_place(out, cfg.format)
    if useless := [key for key, format in KEYS.items() if cfg[key] and format != cfg.format]:
        wanted = KEYS[useless[0]]
        raise UserError(f"{useless[0]} is for format={wanted}, but this is format={cfg.format}; leave it out.")
    model = _model(cfg)
    if cfg.licence is not None:
        model.extra["licence"] = cfg.licence
    if cfg.results:
        model.extra["results"] = [quoted(Path(folder).expanduser(), model) for folder in cfg.results]
    if cfg.format == "onnx":
        console.print("Writing the graph and comparing it with PyTorch: a minute or two at open sizes.")
        difference = export_onnx(model, out, size=cfg.size, batch_size=cfg.batch_size)
        console.print(f"{out}: the model's numbers to {difference:.1e} of the largest value.", soft_wrap=True)
    else:
        model.save_pretrained(out, format=cfg.format)
        console.print(f"{cfg.model} as {cfg.format} in {out}.", soft_wrap=True)


def _model(cfg: DictConfig) -> DepthAnything:
    return DepthAnything.from_pretrained(cfg.model, taps=cfg.taps, max_depth_m=cfg.max_depth_m, device="cpu")


def check_place(out: Path, format: str) -> None:
    """Refuse, before anything takes time, a place that cannot be written to or holds something else.

    Raises:
        UserError: an unknown format, a folder that is none or cannot be written to, or one with other things in it.
    """
    if format not in FORMATS:
        raise UserError(f"Expected a format out of {', '.join(FORMATS)}, but got {format!r}.")
    if format == "onnx":
        if out.is_dir():
            raise UserError(f"Expected a file such as {out / 'model.onnx'} as out, but got the folder {out}.")
        if out.suffix != ".onnx":
            raise UserError(f"Expected a file whose name ends in .onnx as out, but got {out}.")
        require_writable(out.parent)
        return
    require_writable(out)
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if others := [name for name in names if not any(fnmatch(name, known) for known in FILES[format])]:
        raise UserError(
            f"Expected an empty folder as out, or one with a model in format={format} alone, but {out} holds "
            f"{', '.join(others[:3])}; name another."
        )


def quoted(folder: Path, model: DepthAnything) -> dict[str, Any]:
    """What the model card quotes of results that `evaluate` wrote.

    Raises:
        UserError: there are none in the folder, they lack what is quoted, or they are of another model.
    """
    results = read_results(folder, keys={**QUOTED, "model": dict})
    judged = results["model"]
    if judged["hash"] != model.hash:
        raise UserError(f"The results in {folder} are of another model ({judged['name']}); evaluate this one.")
    if other := other_setup(judged, model.setup):
        raise UserError(f"The results in {folder} are of {other}; evaluate this one.")
    return {**{key: results[key] for key in QUOTED}, "size": judged["size"] or model.size}
