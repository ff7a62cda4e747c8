"""The depth model: DINOv2 encoder and DPT decoder, with the names of the released checkpoints, from plain numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from depth_anything_train.models.dpt import DPTHead
from depth_anything_train.models.encoder import DinoV2Encoder, EncoderConfig, FeedForward, Four, four, resolve_taps
from depth_anything_train.models.metric_bins import BinsConfig, MetricBinsHead
from depth_anything_train.ops.positions import PositionWay
from depth_anything_train.runtime import UserError, require_choice, require_count
from depth_anything_train.types import DepthMetres, Image, Patches

Kind = Literal["relative", "metric"]

RELEASED_SIZE = 518
"""Shorter side in pixels at which the released models see a photograph."""


@dataclass(frozen=True)
class DepthModelConfig:
    """Everything that decides a model's parameters and numbers; travels with its weights.

    Args:
        encoder: the encoder's sizes and taps.
        features: channels of the decoder's fusion path.
        out_channels: channels to which the four tapped maps are brought.
        kind: `relative` predicts disparity >= 0, `metric` depth in metres.
        max_depth_m: farthest depth of a metric model in metres; None for a relative one.
        bins: the bins of a metric model after ZoeDepth (V1); without, it ends in a sigmoid times `max_depth_m` (V2).
        canonical_focal_px: focal length, in pixels of what the network sees, for which a metric model states metres; at
            another one, f, they are f / canonical_focal_px times as many, so that a lens that enlarges brings nothing
            nearer (Metric3D's transformation of labels). None: metres of the camera that it was trained on.

    Raises:
        UserError: the numbers do not fit together.
    """

    encoder: EncoderConfig
    features: int
    out_channels: Four
    kind: Kind = "relative"
    max_depth_m: float | None = None
    bins: BinsConfig | None = None
    canonical_focal_px: float | None = None

    def __post_init__(self) -> None:
        for key, value in (("features", self.features), *(("out_channels", c) for c in self.out_channels)):
            require_count(key, value)
        require_choice("kind", self.kind, ("relative", "metric"))
        if (self.kind == "metric") != (self.max_depth_m is not None):
            raise UserError(
                f"Expected max_depth_m for a metric model and none for a relative one, but got kind={self.kind} with "
                f"max_depth_m={self.max_depth_m}; set both or neither."
            )
        if self.max_depth_m is not None and not (isinstance(self.max_depth_m, int | float) and self.max_depth_m > 0):
            raise UserError(f"Expected max_depth_m to be a number of metres above zero, but got {self.max_depth_m!r}.")
        if self.bins is not None and self.max_depth_m != self.bins.farthest_m:
            raise UserError(
                f"Expected max_depth_m to be the farthest depth of the bins, {self.bins.farthest_m:g} m, but got "
                f"kind={self.kind} with max_depth_m={self.max_depth_m}."
            )
        if self.canonical_focal_px is not None and not (self.kind == "metric" and 0 < self.canonical_focal_px):
            raise UserError(
                "Expected canonical_focal_px above 0 for a metric model and none for a relative one, but got "
                f"kind={self.kind} with canonical_focal_px={self.canonical_focal_px}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` turns it back."""
        return asdict(self)

    def setup(self) -> dict[str, Any]:
        """What decides a model's numbers and does not show in the shapes of its weights, as plain JSON."""
        encoder = {key: getattr(self.encoder, key) for key in ("num_heads", "position")}
        bins = None if self.bins is None else asdict(self.bins)
        head = {key: getattr(self, key) for key in ("kind", "max_depth_m", "canonical_focal_px")}
        setup = {"taps": self.encoder.taps, **encoder, **head, "bins": bins}
        return cast(dict[str, Any], json.loads(json.dumps(setup)))  # lists for tuples, as a file gives them back

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> DepthModelConfig:
        """Build from what `to_dict` gave.

        Raises:
            UserError: a key is missing or unknown, or the numbers do not fit together.
        """
        try:
            encoder = EncoderConfig.from_dict(content["encoder"])
            bins = BinsConfig.from_dict(content["bins"]) if content.get("bins") is not None else None
            parts = {"encoder": encoder, "out_channels": four("out_channels", content["out_channels"]), "bins": bins}
            return cls(**{**content, **parts})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"Expected the configuration of a depth model, but a key is missing or unknown ({error}); "
                "was it written by another version?"
            ) from None


class DepthModel(nn.Module):
    """Image to disparity >= 0 (B, 1, H, W), or to depth in metres for a metric model; always float32.

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891
    - [1]: Vision Transformers for Dense Prediction, 2021, https://arxiv.org/abs/2103.13413
    """

    def __init__(
        self, config: DepthModelConfig, *, activation_checkpointing: str = "selective", attention: str = "sdpa"
    ) -> None:
        super().__init__()
        self.config = config
        self.pretrained = DinoV2Encoder(
            config.encoder, activation_checkpointing=activation_checkpointing, attention=attention
        )
        sizes = config.encoder.embed_dim, config.features, config.out_channels
        self.depth_head = (
            MetricBinsHead(*sizes, config.bins)
            if config.bins is not None
            else DPTHead(*sizes, max_depth_m=config.max_depth_m)
        )

    def forward(self, image: Image) -> Tensor:
        """Predict at the size of the image.

        Raises:
            UserError: a side of the image is no multiple of the patch size.
        """
        return self.forward_features(image)[0]

    def forward_features(self, image: Image) -> tuple[Tensor, Patches]:
        """The prediction, and the encoder's last features (final norm, no class token) for feature alignment.

        Raises:
            UserError: a side of the image is no multiple of the patch size.
        """
        maps, patches = self.pretrained.forward_taps(image)
        return self.depth_head(maps, image.shape[-2:]), patches

    def route(self, image: Image, domain: Tensor | None = None) -> tuple[DepthMetres, Tensor | None]:
        """Depth by the bins of the given domains (B,), or of those that the router chooses; and its scores (B, D).

        Raises:
            UserError: a side of the image is no multiple of the patch size.
        """
        maps, _ = self.pretrained.forward_taps(image)
        return cast(MetricBinsHead, self.depth_head).route(maps, image.shape[-2:], domain)

    def forward_packed(self, images: Sequence[Image]) -> list[Tensor]:
        """Predict images of several sizes, each (1, 3, H, W), whose tokens go through the encoder in one row.

        Raises:
            UserError: a side of an image is no multiple of the patch size.
        """
        features = self.pretrained.forward_packed(images)
        return [self.depth_head(maps, x.shape[-2:]) for (maps, _), x in zip(features, images, strict=True)]

    def to_bfloat16(self) -> DepthModel:
        """Turn the weights into bfloat16, for inference; the last convolution stays float32, and so does the output.

        In bfloat16 the output would have 256 levels between 1 and 2, which shows as terraces.
        """
        exact = [(layer, copy.deepcopy(layer.state_dict())) for layer in self.depth_head.exact_layers()]
        self.to(torch.bfloat16)
        for layer, weights in exact:
            layer.to(torch.float32).load_state_dict(weights)
        return self


def build_depth_model(
    *,
    name: str,
    embed_dim: int,
    depth: int,
    num_heads: int,
    features: int,
    out_channels: Sequence[int],
    ffn: FeedForward = "mlp",
    taps: str | Sequence[int] = "last4",
    patch_size: int = 14,
    image_size: int = 518,
    position: PositionWay = "dinov2",
    kind: Kind = "relative",
    max_depth_m: float | None = None,
    bins: Mapping[str, Any] | None = None,
    canonical_focal_px: float | None = None,
    activation_checkpointing: str = "selective",
    attention: str = "sdpa",
) -> DepthModel:
    """Build a model with random weights from the plain numbers of a config file; reads no disk and no network.

    `taps` is `last4` (V1), `spread` (V2) or four block indices; the model's own config holds the indices. `bins` holds
    the settings of `BinsConfig`; without one of its own, `max_depth_m` is the farthest of its domains.

    Raises:
        UserError: the numbers do not fit together.
    """
    encoder = EncoderConfig(
        name=name,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        ffn=ffn,
        taps=resolve_taps(taps, depth),
        patch_size=patch_size,
        image_size=image_size,
        position=position,
    )
    bins_config = BinsConfig.from_dict(bins) if bins is not None else None
    config = DepthModelConfig(
        encoder=encoder,
        features=features,
        out_channels=four("out_channels", out_channels),
        kind=kind,
        max_depth_m=bins_config.farthest_m if bins_config is not None and max_depth_m is None else max_depth_m,
        bins=bins_config,
        canonical_focal_px=canonical_focal_px,
    )
    return DepthModel(config, activation_checkpointing=activation_checkpointing, attention=attention)
