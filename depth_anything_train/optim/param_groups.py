"""Which parameter learns how fast: a pre-trained encoder slowly, a fresh decoder ten times faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from depth_anything_train.runtime import UserError


def prefix_groups(
    model: nn.Module,
    rates: Mapping[str, tuple[str, float]],
    *,
    weight_decay: float,
    decay_norms_and_biases: bool = True,
    decay_embeddings: bool = True,
) -> list[dict[str, Any]]:
    """Put every trainable parameter into exactly one group for an optimiser, with its name.

    Args:
        model: whose parameters are shared out.
        rates: how a parameter's name starts -> its group and learning rate; the longest start that fits counts, and
            the empty one fits all.
        weight_decay: decoupled weight decay of all groups.
        decay_norms_and_biases: whether norms, biases and other vectors decay too; if not, they get groups of their own.
        decay_embeddings: whether embeddings of positions, levels and queries do.

    Raises:
        UserError: nothing is trainable.
    """
    groups: dict[str, dict[str, Any]] = {}
    embeddings = set() if decay_embeddings else set(_embeddings(model))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, lr = rates[max((prefix for prefix in rates if name.startswith(prefix)), key=len)]
        decays = (decay_norms_and_biases or parameter.ndim > 1) and name not in embeddings
        group = part + ("" if decays else "_no_decay")
        settings = {"lr": lr, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault(group, {"name": group, "params": [], **settings})["params"].append((name, parameter))
    if not groups:
        raise UserError("Expected a model with trainable parameters, but all are frozen; unfreeze encoder or decoder.")
    return list(groups.values())


def _embeddings(model: nn.Module) -> Iterator[str]:
    """Names of the parameters that are looked up, or added to tokens."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            yield f"{name}.weight"
    yield from (name for name, _ in model.named_parameters() if name.endswith("_embed"))
