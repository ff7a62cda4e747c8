"""The decoder of Mask2Former, by transformers' own parts, on feature maps that come from elsewhere.

This file imports transformers; `segmenter.py`, which needs it, imports it when a segmenter is built.

- [0]: Masked-attention Mask Transformer for Universal Image Segmentation, 2022, https://arxiv.org/abs/2112.01527
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)


class Queries(NamedTuple):
    """Outputs of the Q queries after each of the L decoder layers; the last layer's are the prediction.

    Attributes:
        classes: L times (B, Q, K + 1) logits of the K classes and, last, of none.
        masks: L times (B, Q, h, w) logits of what belongs to the query.
    """

    classes: list[Tensor]
    masks: list[Tensor]


class Mask2FormerDecoder(Mask2FormerPreTrainedModel):
    """Pixel decoder, transformer decoder and classifier of `Mask2FormerForUniversalSegmentation`, without its backbone.

    It derives from transformers' base class for the sake of its initialisation alone.

    Args:
        config: sizes; what it says about a backbone is not used.
        channels: channels of the four maps, from fine to coarse.
    """

    def __init__(self, config: Any, channels: Sequence[int]) -> None:
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=list(channels))
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.post_init()

    def forward(self, maps: Sequence[Tensor]) -> Queries:
        """Queries of four maps (B, C, h, w), each half as fine as the one before it."""
        pixels = self.pixel_decoder(list(maps), output_hidden_states=False, return_dict=True)
        decoded = self.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
        )
        classes = [self.class_predictor(hidden.transpose(0, 1)) for hidden in decoded.intermediate_hidden_states]
        return Queries(classes, list(decoded.masks_queries_logits))


def build_decoder(
    *,
    channels: int,
    num_classes: int,
    queries: int,
    width: int,
    heads: int,
    feedforward: int,
    pixel_layers: int,
    query_layers: int,
) -> Mask2FormerDecoder:
    """A decoder with random weights, as Mask2Former initialises them; for its arguments see `SegmenterConfig`."""
    settings: dict[str, Any] = dict(
        num_labels=num_classes,
        num_queries=queries,
        feature_size=width,
        mask_feature_size=width,
        hidden_dim=width,
        num_attention_heads=heads,
        encoder_feedforward_dim=feedforward,
        dim_feedforward=feedforward,
        encoder_layers=pixel_layers,
        decoder_layers=query_layers + 1,  # transformers counts the predictions, of which one stands before any layer
    )
    return Mask2FormerDecoder(Mask2FormerConfig(**settings), [channels] * 4)
