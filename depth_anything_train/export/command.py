"""`depth-anything export`: a model for other programs - a Hugging Face folder, the released layout, an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.command import command
from depth_anything_train.export.onnx import check_onnx, export_onnx
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.runtime import UserError, console, read_json

RESULTS = ("caption", "groups", "mean", "images", "model")
FORMATS = ("hf", "original", "onnx", "native")


@command("export")
def main(cfg: DictConfig) -> None:
    """Write `cfg.model` to `cfg.out` as `cfg.format`, or compare the ONNX file `cfg.check` with it."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    model = DepthAnything.from_pretrained(cfg.model, taps=settings["taps"], max_depth_m=cfg.max_depth_m, device="cpu")
    if cfg.check is not None:
        difference = check_onnx(cfg.check, model)
        console.print(f"{cfg.check} gives the numbers of {cfg.model} to {difference:.1e} of the largest value.")
        return
    if cfg.format not in FORMATS:
        raise UserError(f"Expected format={', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {cfg.format!r}.")
    if cfg.licence is not None:
        model.extra["licence"] = cfg.licence
    if cfg.results:
        model.extra["results"] = [read_results(folder, model) for folder in settings["results"]]
    if cfg.format == "onnx":
        difference = export_onnx(model, cfg.out, size=settings["size"], batch=cfg.batch)
        console.print(f"{cfg.out}: PyTorch's numbers to {difference:.1e} of the largest value.", soft_wrap=True)
    else:
        model.save_pretrained(cfg.out, format=cfg.format)
        console.print(f"{cfg.model} as {cfg.format} in {cfg.out}.", soft_wrap=True)


def read_results(folder: str, model: DepthAnything) -> dict[str, Any]:
    """What the model card quotes of results that `evaluate` wrote.

    Raises:
        UserError: there are none in the folder, or they are of another model.
    """
    results = read_json(Path(folder).expanduser() / "results.json", keys=RESULTS)
    if results["model"]["hash"] != model.hash:
        raise UserError(
            f"The results in {folder} are of another model ({results['model']['name']}); evaluate this one."
        )
    return {key: results[key] for key in RESULTS if key != "model"}


if __name__ == "__main__":
    main()
