"""What flows through the library: the names, shapes, units and ranges that every other module uses.

Letters: B images in a batch, H and W pixels, N patches, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

ImageBytes = UInt8[Tensor, "B 3 H W"]
"""RGB as decoded, 0 to 255: what leaves the loader. Normalised on the device, which keeps the hand-over small."""

Image = Float[Tensor, "B 3 H W"]
"""RGB after ImageNet normalisation: what a model takes."""

Disparity = Float[Tensor, "B 1 H W"]
"""Inverse depth, larger is nearer, >= 0: up to an unknown scale > 0 and shift, or in 1/m where labels are metric."""

DepthMetres = Float[Tensor, "B 1 H W"]
"""Depth along the optical axis in metres."""

Valid = Bool[Tensor, "B 1 H W"]
"""True where a label may be used; everything else may hold any value, NaN included."""

Classes = UInt8[Tensor, "B H W"]
"""The class of every pixel, counted from 0; 255 marks none."""

Patches = Float[Tensor, "B N C"]
"""Encoder features, one row per patch, without the class token."""

InputCrop = Literal["none", "kb"]
"""What of an image a metric model sees, in training and when it is judged: `kb` is KITTI's benchmark window."""

Scalar = Float[Tensor, ""]
"""A loss: one number, attached to the graph."""

ENCODER, BINS = "pretrained.", "depth_head.bins."
"""How the names of a model's weights begin: those of its encoder, and those of the bins of V1's metric models."""


class LabelledBatch(TypedDict):
    """Images with real labels; `source` names the data set of each, `key` the sample in it."""

    image: ImageBytes
    disparity: Disparity
    valid: Valid
    key: list[str]
    source: list[str]


class UnlabelledBatch(TypedDict):
    """Strongly perturbed images with pseudo labels, after CutMix.

    `region` is True where a pixel comes from the image itself and False where CutMix pasted its partner;
    the pseudo label and its validity were mixed the same way.
    """

    image: ImageBytes
    disparity: Disparity
    valid: Valid
    region: Valid
    key: list[str]
    source: list[str]


class SemanticBatch(TypedDict):
    """Images with the class of every pixel."""

    image: ImageBytes
    classes: Classes
    key: list[str]
    source: list[str]


Batch = Mapping[str, Any]
"""One step: a LabelledBatch, UnlabelledBatch or SemanticBatch by the name of its stream. A student has two streams,
`labelled` and `unlabelled`, 1 : 2 in the paper; most tasks have one."""
