"""`depth-anything export`: a model for other programs - a Hugging Face folder, the released layout, an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig

from depth_anything_train.command import command
from depth_anything_train.export.onnx import check_onnx, export_onnx
from depth_anything_train.inference.depth_anything import DepthAnything, Format
from depth_anything_train.runtime import UserError, console, read_json

RESULTS = ("caption", "groups", "mean", "images")
FORMATS = (*get_args(Format), "onnx")


@command("export")
def main(cfg: DictConfig) -> None:
    """Write `cfg.model` to `cfg.out` as `cfg.format`, or compare the ONNX file `cfg.check` with it."""
    model = DepthAnything.from_pretrained(cfg.model, taps=cfg.taps, max_depth_m=cfg.max_depth_m, device="cpu")
    if cfg.check is not None:
        difference = check_onnx(cfg.check, model)
        console.print(f"{cfg.check}: the model's numbers to {difference:.1e} of the largest value.", soft_wrap=True)
        return
    if cfg.format not in FORMATS:
        raise UserError(f"Expected a format out of {', '.join(FORMATS)}, got {cfg.format!r}.")
    if cfg.licence is not None:
        model.extra["licence"] = cfg.licence
    if cfg.results:
        model.extra["results"] = [read_results(folder, model) for folder in cfg.results]
    if cfg.format == "onnx":
        console.print("Writing the graph and comparing it with PyTorch: a minute or two at open sizes.")
        difference = export_onnx(model, cfg.out, size=cfg.size, batch=cfg.batch)
        console.print(f"{cfg.out}: the model's numbers to {difference:.1e} of the largest value.", soft_wrap=True)
    else:
        model.save_pretrained(cfg.out, format=cfg.format)
        console.print(f"{cfg.model} as {cfg.format} in {cfg.out}.", soft_wrap=True)


def read_results(folder: str, model: DepthAnything) -> dict[str, Any]:
    """What the model card quotes of results that `evaluate` wrote.

    Raises:
        UserError: there are none in the folder, or they are of another model.
    """
    results = read_json(Path(folder).expanduser() / "results.json", keys=(*RESULTS, "model"))
    judged = results["model"]
    if judged["hash"] != model.hash:
        raise UserError(f"The results in {folder} are of another model ({judged['name']}); evaluate this one.")
    return {**{key: results[key] for key in RESULTS}, "size": judged["size"] or model.size}


if __name__ == "__main__":
    main()
