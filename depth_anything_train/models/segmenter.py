"""Semantic segmentation on our encoder (V1 section 6): a pyramid of four of its blocks, and Mask2Former's decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depth_anything_train.models.block import NORM_EPS
from depth_anything_train.models.encoder import DinoV2Encoder, EncoderConfig
from depth_anything_train.models.weights import (
    FolderFiles,
    find_folder,
    load_strict,
    read_folder,
    write_folder,
)
from depth_anything_train.runtime import UserError, import_extra, require_count
from depth_anything_train.types import Image

if TYPE_CHECKING:
    from depth_anything_train.models.mask2former import Queries

FILES = FolderFiles("segmenter.safetensors", "segmenter.json")

MIN_PATCHES = 3
"""Patches along a side below which the coarsest map would be a single number, of which no norm can be taken."""

MAX_CLASSES = 255
"""Maps of classes have 8 bits, and one value means none."""


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that decides a segmenter's parameters and numbers; travels with its weights.

    Args:
        encoder: its sizes, and the four blocks that are read.
        num_classes: K.
        queries: masks that are predicted for an image.
        width: channels of the decoder, a multiple of 32 and of `heads`.
        heads: attention heads of all its layers.
        feedforward: inner channels of their feed-forward parts.
        pixel_layers: layers of the pixel decoder (deformable attention).
        query_layers: layers of the transformer decoder (masked attention).

    Raises:
        UserError: the numbers do not fit together.
    """

    encoder: EncoderConfig
    num_classes: int
    queries: int = 200
    width: int = 1024
    heads: int = 32
    feedforward: int = 4096
    pixel_layers: int = 6
    query_layers: int = 9

    def __post_init__(self) -> None:
        for key, value in self.decoder().items():
            require_count(key, value)
        if self.num_classes > MAX_CLASSES:
            raise UserError(f"Expected at most {MAX_CLASSES} classes, but got num_classes={self.num_classes}.")
        if self.width % 32 or self.width % self.heads:
            raise UserError(f"Expected width in multiples of 32 and of heads={self.heads}, but got width={self.width}.")

    def decoder(self) -> dict[str, int]:
        """What the decoder is built of, beside the channels of the encoder."""
        return {name: value for name, value in vars(self).items() if name != "encoder"}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SegmenterConfig:
        """Build from `asdict`.

        Raises:
            UserError: a key is missing or unknown, or the numbers do not fit together.
        """
        try:
            return cls(**{**content, "encoder": EncoderConfig.from_dict(content["encoder"])})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"Expected the configuration of a segmenter, but a key is missing or unknown ({error}); "
                "was it written by another version?"
            ) from None


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps, of each position by itself: (B, C, h, w) to the same shape."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """Four maps of one size to 4, 2, 1 and 1/2 times that size: a plain encoder looks like one of many scales.

    As MMSegmentation's Feature2Pyramid, but with a norm over channels where that has batch norm, whose statistics
    would depend on how many images a device holds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
            ChannelNorm(channels, eps=NORM_EPS),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
        )
        self.fine = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.coarse = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), from the earliest block to the last -> from fine to coarse."""
        first, second, third, last = maps
        return [self.finest(first), self.fine(second), third, self.coarse(last)]


class Segmenter(nn.Module):
    """Image to masks and classes; the encoder keeps the name by which the optimiser's recipe knows encoders.

    Args:
        config: sizes.
        encoder: an encoder of that configuration; None makes a random one.
    """

    def __init__(self, config: SegmenterConfig, encoder: DinoV2Encoder | None = None) -> None:
        import_extra("transformers", extra="hf")
        from depth_anything_train.models.mask2former import build_decoder

        super().__init__()
        self.config = config
        self.pretrained = DinoV2Encoder(config.encoder) if encoder is None else encoder
        self.pyramid = Pyramid(config.encoder.embed_dim)
        self.decoder = build_decoder(channels=config.encoder.embed_dim, **config.decoder())

    def forward(self, image: Image) -> Queries:
        """What the queries say.

        Raises:
            UserError: a side of the image is no multiple of the patch size, or shorter than `MIN_PATCHES` of them.
        """
        least = MIN_PATCHES * self.config.encoder.patch_size
        if min(image.shape[-2:]) < least:
            raise UserError(
                f"Expected images of at least {least} pixels a side to segment, but got {(*image.shape[-2:],)}."
            )
        return self.decoder(self.pyramid(self.pretrained.forward_taps(image)[0]))

    def scores(self, image: Image) -> Tensor:
        """Score of every class at every pixel, (B, K, H, W) >= 0: over all queries, how much it is of the class there.

        Raises:
            UserError: as `forward`.
        """
        queries = self(image)
        classes = queries.classes[-1].float().softmax(-1)[..., :-1]
        masks = F.interpolate(queries.masks[-1].float(), image.shape[-2:], mode="bilinear", align_corners=False)
        return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())


def save_segmenter(folder: str | Path, model: Segmenter, extra: Mapping[str, Any]) -> Path:
    """Write the weights and, last, `segmenter.json`: configuration, their hash, `extra`. Returns the folder."""
    description = {"config": asdict(model.config), "extra": dict(extra)}
    return write_folder(folder, FILES, model, description)


def load_segmenter(source: str | Path) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter of a run folder or of the folder `model` or `best` in it, in eval mode; and what is on record.

    Raises:
        UserError: there is none, or its files are damaged or of another model.
    """
    folder = find_folder(Path(source).expanduser(), FILES)
    if folder is None:
        raise UserError(
            f"Expected a segmenter in {source}: the run folder of `train experiment=segmentation_...`, finished, or "
            "its folder best; there is none."
        )
    description, tensors = read_folder(folder, FILES)
    model = Segmenter(SegmenterConfig.from_dict(description["config"]))
    load_strict(model, tensors, source=str(folder / FILES.weights))
    return model.eval(), {**description["extra"], "hash": description["sha256"]}
