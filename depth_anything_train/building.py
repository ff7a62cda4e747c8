"""From a node of a config to an object, if its `_target_` is on the list of what a config may build."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from depth_anything_train.runtime import UserError

# What a config may build: classes that are defined in these packages, and what our models have for constructors.
# Anything else is refused, so that a config from a stranger cannot call `os.system` or our own functions that write.
OURS = ("depth_anything_train.", "data_engine.")
ALLOWED_TARGETS = (*OURS, "torch.optim.", "pytorch_lightning.", "albumentations.")
ALLOWED_FUNCTIONS = "depth_anything_train.models."

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")
"""Beside the settings, what Hydra itself wants to know."""


def build(node: Any, **arguments: Any) -> Any:
    """Instantiate a config node by its `_target_`, if that is on the list of what a config may build.

    What else a constructor of ours raises than a `UserError` is a mistake in it, and goes through.

    Raises:
        UserError: a `_target_` outside `ALLOWED_TARGETS`, or settings that it does not have, or lacks.
    """
    for inner in _nodes(node):
        _check_settings(inner, _resolve(str(inner["_target_"])), arguments if inner is node else {})
    try:
        if arguments:  # called here, because Hydra would turn arguments that are dataclasses into configs
            return hydra.utils.instantiate(node, _partial_=True)(**arguments)
        return hydra.utils.instantiate(node)
    except InstantiationException as error:  # Hydra's wrapper around what a constructor raised
        cause = error.__cause__ or error
        raise (_refused(node, cause) if _is_of_a_key(cause, node) else cause) from None
    except (TypeError, ValueError) as error:
        if str(node["_target_"]).startswith(OURS) and not _is_of_a_key(error, node):
            raise
        raise _refused(node, error) from error  # a library's way to speak about values


def _is_of_a_key(error: BaseException, node: Any) -> bool:
    """Whether a setting was passed on to a parent class that does not have it."""
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return unexpected is not None and any(unexpected[1] in inner for inner in _nodes(node))


def _refused(node: Any, cause: BaseException) -> UserError:
    reason = " ".join(str(cause).split()).rstrip(".")
    return UserError(f"The settings of {node.get('_target_', 'an object')} do not fit: {reason}; see `--cfg job`.")


def _nodes(node: Any) -> Iterator[Any]:
    """All nodes that name a `_target_`."""
    if isinstance(node, DictConfig | dict):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _nodes(node[key])
    elif isinstance(node, ListConfig | list | tuple):
        for item in node:
            yield from _nodes(item)


def _resolve(target: str) -> Callable[..., Any]:
    """What a `_target_` names, judged by where that is defined: modules also hold what they import.

    Raises:
        UserError: there is none, or it is not on the list.
    """
    found: Any = None
    if target.startswith(ALLOWED_TARGETS):  # before anything is imported
        try:
            found = hydra.utils.get_object(target)
        except ImportError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError | AttributeError | None):
                raise  # it is there, and broken
            raise UserError(f"A config names _target_: {target}, which does not exist.") from error
    origin = f"{getattr(found, '__module__', '')}."
    if not origin.startswith(ALLOWED_TARGETS if inspect.isclass(found) else ALLOWED_FUNCTIONS):
        allowed = ", ".join(prefix.rstrip(".") for prefix in ALLOWED_TARGETS)
        raise UserError(f"A config may build classes of {allowed}, but it names _target_: {target}.")
    return cast(Callable[..., Any], found)


def _check_settings(node: Any, target: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Compare the keys of a node with what its target takes.

    Raises:
        UserError: the node lacks a key that the target needs, or has one that it does not take.
    """
    given = {str(key): None for key in node if key not in HYDRA_KEYS} | dict(arguments)
    signature = inspect.signature(target)
    try:
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**given)
    except TypeError as error:
        raise _refused(node, error) from None
