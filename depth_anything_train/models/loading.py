"""Whatever a user calls a model: our folder or Hugging Face's, a checkpoint, a released file, a name on the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depth_anything_train import run_folder
from depth_anything_train.models import checkpoints, encoder_weights, huggingface, segmenter
from depth_anything_train.models.checkpoints import load_checkpoint, load_model
from depth_anything_train.models.depth_model import RELEASED_SIZE, DepthModel
from depth_anything_train.models.hub import from_hub, is_hub_name
from depth_anything_train.models.huggingface import load_hf
from depth_anything_train.models.original import load_original
from depth_anything_train.models.weights import FolderFiles, find_folder
from depth_anything_train.runtime import UserError

HUB_FILES = ["*.json", "model.safetensors", "*.pth", "pytorch_model.bin"]
WITHOUT_DEPTH = {
    segmenter.FILES: "a segmenter, which predicts classes and no depth: `segment` judges it, and",
    encoder_weights.FILES: "an encoder alone, which predicts nothing:",
}
"""Models of ours that are no depth models, and what to say of them."""

HUB_MIXIN = ("pytorch_model.bin", huggingface.WEIGHTS)
"""Weights of the released code where its `push_to_hub` put them, beside a config.json that is not transformers'."""

FOLDERS = (checkpoints.FILES, FolderFiles(huggingface.WEIGHTS, huggingface.CONFIG), *WITHOUT_DEPTH)
"""Files of model folders, ours and Hugging Face's; weights alone belong to none."""

RELEASED_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")


def load_depth_model(
    source: str | Path,
    *,
    taps: str | Sequence[int] | None = None,
    max_depth_m: float | None = None,
    num_heads: int | None = None,
) -> tuple[DepthModel, dict[str, Any]]:
    """The model that `source` names, on the CPU in eval mode, and what is on record about it (its `size` at least).

    Args:
        source: a model folder or run folder of ours, a checkpoint of a run (`.ckpt`), a Hugging Face folder, a file of
            such a folder, a `.pth` in the released layout, a folder with one such file, or `owner/name` on the Hugging
            Face hub.
        taps: for a `.pth` whose name does not say it; see `load_original`. So are `max_depth_m` and `num_heads`.

    Raises:
        UserError: there is no such model, its files are damaged or of another model, or a setting was given for a
            source that states it itself.
    """
    settings = {"taps": taps, "max_depth_m": max_depth_m, "num_heads": num_heads}
    given = [name for name, value in settings.items() if value is not None]
    path = Path(source).expanduser()
    if is_hub_name(source):
        path = from_hub(str(source), files=HUB_FILES, what="a model")
    elif path.is_file() and _is_of_a_folder(path):
        path = path.parent
    file = _released_file(path)
    if file is not None:
        name = _name_of_folder(file.parent.resolve()) if _is_mixins(file) else file.stem
        model = load_original(file, name=name, **settings)  # type: ignore[arg-type]
        return model, {"size": RELEASED_SIZE, "source": file.name}
    if given:
        raise UserError(f"{source} states its own settings; leave out {', '.join(given)}.")
    if path.is_file() and path.suffix == ".ckpt":
        return load_checkpoint(path)
    if (folder := find_folder(path, checkpoints.FILES)) is not None:
        return load_model(folder)
    if _is_hf(path):
        model, size = load_hf(path)
        return model, {"size": size, "source": str(source)}
    raise UserError(_no_model(source, path))


def _is_of_a_folder(file: Path) -> bool:
    """Whether a file stands for the whole folder that it lies in."""
    described = (files for files in FOLDERS if (file.parent / files.description).is_file())
    return not _is_mixins(file) and any(file.name in files for files in described)


def _released_file(path: Path) -> Path | None:
    """The file itself, or the only one of a folder that holds no other kind of model."""
    if path.is_file():
        return path if path.suffix in RELEASED_ENDINGS else None
    if not path.is_dir() or (path / checkpoints.FILES.description).exists() or _is_hf(path):
        return None
    found = sorted(path.glob("*.pth")) + [path / name for name in HUB_MIXIN if _is_mixins(path / name)][-1:]
    return found[0] if len(found) == 1 else None


def _is_mixins(file: Path) -> bool:
    """Whether it is weights of the released code in a folder of its `push_to_hub`."""
    config = file.parent / huggingface.CONFIG
    return file.name in HUB_MIXIN and file.is_file() and config.is_file() and not _is_of_transformers(file.parent)


def _name_of_folder(folder: Path) -> str:
    """Its own, or that on the hub of a folder in its cache, `models--OWNER--NAME/snapshots/VERSION`."""
    repository = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    return repository.rpartition("--")[2] or folder.name


def _is_hf(folder: Path) -> bool:
    return _is_of_transformers(folder) and (folder / huggingface.WEIGHTS).is_file()


def _is_of_transformers(folder: Path) -> bool:
    """Whether there is a config.json that is transformers', which states a type; one that is damaged counts as such."""
    try:
        content = json.loads((folder / huggingface.CONFIG).read_bytes())
    except OSError:
        return False
    except ValueError:
        return True
    return not isinstance(content, dict) or "model_type" in content


def _no_model(source: str | Path, path: Path) -> str:
    for files, what in WITHOUT_DEPTH.items():
        if (folder := find_folder(path, files)) is not None:
            weights = folder / files.weights
            return f"{source} holds {what} `train` starts from the encoder with encoder={weights} in place of init=."
    if saved := run_folder.checkpoints(path):
        finished = (
            ""
            if find_folder(path.parent, checkpoints.FILES) is None
            else f", or {path.parent}, whose training is finished"
        )
        return f"{source} holds checkpoints; give one of them, such as {saved[-1]}{finished}."
    saved = run_folder.checkpoints(path / "checkpoints")
    if saved or (path / run_folder.METRICS).exists():
        newest = f", or give one of its checkpoints, such as {saved[-1]}" if saved else ""
        return f"{source} is a run folder without a finished model; let its training finish first{newest}."
    if path.is_dir() and len(found := sorted(path.glob("*.pth"))) > 1:
        return f"{source} holds {len(found)} .pth files, {found[0].name} first; give one of them."
    if _is_of_transformers(path):
        return (
            f"Expected {huggingface.WEIGHTS} beside {huggingface.CONFIG} in {source}, but there is none; open the "
            "model with transformers and save it again, in one file."
        )
    state = "holds none of them" if path.is_dir() else "is another kind of file" if path.is_file() else "does not exist"
    return (
        "Expected a model folder, a run folder, a checkpoint (.ckpt), a Hugging Face folder, a released .pth or the "
        f"name of a model on the hub (owner/name), but {source} {state}."
    )
