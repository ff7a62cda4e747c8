"""The models that the page offers: found when it starts, loaded when they are first chosen."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from depth_anything_train.inference.load import load_predictor
from depth_anything_train.inference.prediction import PhotoPredictor
from depth_anything_train.runtime import UserError

MODEL_FILES = (".pth", ".ckpt")
WEIGHTS = ("model.safetensors", "model/model.safetensors")
"""In a model folder of ours or of Hugging Face, and in a run folder."""


class Models:
    """Models by name; the `kept` most recently used stay in memory.

    Args:
        sources: {name: what `load_predictor` takes}.
        device: where they run.
        kept: how many stay loaded.
    """

    def __init__(self, sources: dict[str, str], *, device: str | None = None, kept: int = 2) -> None:
        self.sources = sources
        self._lock = threading.Lock()  # two visitors at once must not load one model twice
        self._loaded = lru_cache(maxsize=kept)(lambda name: load_predictor(sources[name], device=device))

    @property
    def names(self) -> list[str]:
        """What can be chosen; the first is the default."""
        return list(self.sources)

    def __getitem__(self, name: str) -> PhotoPredictor:
        """The model of that name, loaded if it is not.

        Raises:
            UserError: its files cannot be used.
        """
        with self._lock:
            return self._loaded(name)


def find_models(sources: str | Sequence[str]) -> dict[str, str]:
    """{name: source} of every model meant: the sources themselves, and what lies in those that are folders of models.

    A model is called by the last part of its path; where two would be called the same, both by the whole.

    Raises:
        UserError: nothing was named.
    """
    models: list[str] = []
    for source in [sources] if isinstance(sources, str) else sources:
        folder = Path(source).expanduser()
        inside = [] if _is_model(folder) else sorted(filter(_is_model, folder.glob("*")))
        models += map(str, inside) if inside else [source]
    if not models:
        raise UserError("Expected a model, a list of models or a folder of run folders; name it with model=.")
    names = [Path(model).resolve().name for model in models]
    return {name if names.count(name) == 1 else model: model for name, model in zip(names, models, strict=True)}


def _is_model(path: Path) -> bool:
    return any((path / weights).is_file() for weights in WEIGHTS) or (path.suffix in MODEL_FILES and path.is_file())
