"""Models of others through transformers: a folder or a name on the hub; safetensors alone, and no code but its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depth_anything_train.models.hub import from_hub, is_hub_name
from depth_anything_train.runtime import UserError, import_extra

HUB_FILES = ("*.json", "*.safetensors")


def load_transformers(
    class_name: str, source: str | Path, *, what: str, revision: str | None = None, may_lack: tuple[str, ...] = ()
) -> tuple[nn.Module, Any]:
    """A model that transformers saved, in float32 on the CPU, and the image processor that belongs to it.

    Args:
        class_name: of the model, as transformers calls it.
        source: a folder, or a name on the hub (owner/name), out of its cache where there is no network.
        what: a noun for messages, such as `a SegFormer`.
        revision: branch, tag or commit of the model on the hub.
        may_lack: beginnings of the names of weights that nothing reads; where the files leave them out they are 0.

    Raises:
        UserError: transformers is missing, there is no such model, it cannot be loaded, or it is incomplete.
    """
    transformers = import_extra("transformers", extra="hf")
    wanted = f"{what} in a transformers folder or its name on the hub (owner/name), with safetensors"
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not is_hub_name(source):
            raise UserError(f"Expected {wanted}, but got {source}, which is no folder.")
        # Without a network transformers would ask for one file after another, again and again.
        folder = from_hub(str(source), files=HUB_FILES, what=what, revision=revision)
    expected = getattr(transformers, class_name).config_class.model_type
    if (found := _model_type(folder)) not in (None, expected):
        raise UserError(f"Expected {wanted}, a model of type {expected}, but {source} is of type {found}.")
    try:
        with _quiet(transformers.utils.logging):
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            model, report = getattr(transformers, class_name).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Expected {wanted}, but {source} cannot be loaded: {reason}") from None
    unread = {name for name in report["missing_keys"] if name.startswith(may_lack)}
    if missing := [*sorted(set(report["missing_keys"]) - unread), *report["mismatched_keys"]]:
        raise UserError(
            f"Expected {wanted}, but {source} is incomplete: {len(missing)} weights do not fit, as {missing[0]}."
        )
    with torch.no_grad():  # transformers draws them at random; equal weights shall have an equal hash
        for name in unread:
            model.get_parameter(name).zero_()
    return model, processor


def _model_type(folder: Path) -> Any:
    """What config.json says; None where it cannot be read, which transformers then tells."""
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / "config.json").read_bytes()).get("model_type")
    return None


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' advice to train what files leave out, and without its bar, which would run through ours."""
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
