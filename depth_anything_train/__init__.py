"""Depth Anything, trained in the open: `from depth_anything_train import DepthAnything`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depth_anything_train.inference.depth_anything import DepthAnything

__all__ = ["DepthAnything"]


def __getattr__(name: str) -> object:
    """Import what is heavy when it is first asked for."""
    if name == "DepthAnything":
        from depth_anything_train.inference.depth_anything import DepthAnything

        return DepthAnything
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
