"""Where training starts: a whole model that was trained before, or an encoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from depth_anything_train.models.depth_model import DepthModel, DepthModelConfig
from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.models.encoder_weights import load_encoder
from depth_anything_train.models.loading import load_depth_model
from depth_anything_train.models.weights import load_strict, weights_hash
from depth_anything_train.runtime import UserError, console, is_first_process, require_choice
from depth_anything_train.types import BINS, ENCODER

Parts = Literal["all", "encoder"]

LAST_LAYER = "depth_head.scratch.output_conv2.2."


def initialise_model(
    model: DepthModel, source: str | Path | None, *, encoder: str | Path | None, parts: Parts = "all"
) -> dict[str, Any]:
    """Load weights that training starts from, in place; says where they came from, for the model's record.

    The last layer stays random if source and model predict different quantities (disparity and metres); so do bins,
    unless they are the same.

    Args:
        model: with random weights.
        source: whatever `load_depth_model` takes: a run, a checkpoint, a released file, a name on the hub; None starts
            from the encoder alone.
        encoder: where the encoder's weights come from if `source` is None; see `encoder_weights.load_encoder`.
        parts: what is taken of `source`: `all`, or the `encoder`, so that the whole decoder stays random.

    Raises:
        UserError: there is no such model, it is of another size or reads other blocks, or neither source is named.
    """
    require_choice("initialise.parts", parts, get_args(Parts))
    if source is None and encoder is None:
        raise UserError(
            "Expected a model to start from: add init=MODEL (a run, a checkpoint, a .pth or a name on the hub), or "
            "encoder=hub for the encoder alone."
        )
    if source is None:
        initialise_encoder(model, str(encoder))
        return {"encoder": str(encoder)}
    origin, about = load_depth_model(source)
    _check_size(origin.config, model.config, source)
    theirs, ours = origin.config.encoder.position, model.config.encoder.position
    if theirs != ours and is_first_process():
        console.print(
            f"{source} resamples positions as {theirs}, this model as {ours}; model.position={theirs} would keep it.",
            soft_wrap=True,
        )
    if parts == "all":
        _check_taps(origin.config, model.config, source)
    taken = {name: weight for name, weight in origin.state_dict().items() if _fits(name, model, origin, parts)}
    load_strict(model, {**model.state_dict(), **taken}, source=str(source))
    return {"init": {**about, "source": str(source), "parts": parts, "hash": weights_hash(origin)}}


def initialise_encoder(model: DepthModel, source: str | Path) -> None:
    """Load the encoder's weights from `source` (see `load_encoder`); `none` leaves the random ones.

    Raises:
        UserError: the source is missing or of another model.
    """
    if source == "none":
        if is_first_process():
            console.print("encoder=none: the encoder starts from random weights.", style="yellow")
    else:
        load_encoder(model.pretrained, source)


def pretrained_encoder(model: DepthModel, source: str | Path) -> DinoV2Encoder:
    """The encoder of `model` with weights from `source`, to be the frozen reference of feature alignment.

    Raises:
        UserError: the source is missing or of another model.
    """
    initialise_encoder(model, source)
    return model.pretrained


def _check_size(origin: DepthModelConfig, own: DepthModelConfig, source: str | Path) -> None:
    """A deeper model would keep random blocks between those that are taken."""
    theirs, ours = origin.encoder, own.encoder
    if (theirs.embed_dim, theirs.depth) != (ours.embed_dim, ours.depth):
        raise UserError(
            f"Expected a model to start from with {ours.embed_dim} channels and {ours.depth} blocks, as this one, but "
            f"{source} has {theirs.embed_dim} and {theirs.depth}; choose model= to fit."
        )


def _check_taps(origin: DepthModelConfig, own: DepthModelConfig, source: str | Path) -> None:
    """V1 and V2 have equal weights and read other blocks: loaded without a word, the decoder would see wrong ones."""
    theirs, ours = list(origin.encoder.taps), list(own.encoder.taps)
    if theirs != ours:
        shown = str(theirs).replace(" ", "")
        raise UserError(f"The decoder of {source} reads blocks {theirs}, this model's {ours}; add model.taps={shown}.")


def _fits(name: str, model: DepthModel, origin: DepthModel, parts: Parts) -> bool:
    if name.startswith(LAST_LAYER) and _ends_in_metres(origin.config) != _ends_in_metres(model.config):
        return False
    if name.startswith(BINS) and origin.config.bins != model.config.bins:
        return False
    return parts == "all" or name.startswith(ENCODER)


def _ends_in_metres(config: DepthModelConfig) -> bool:
    """Whether the decoder's own last layer does: before bins it gives disparity, as in a relative model."""
    return config.kind == "metric" and config.bins is None
