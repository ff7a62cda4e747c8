"""Labels in metres: which depths a metric model is trained on, and the crop of KITTI's published recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from depth_anything_train.data.camera import read_focal, resized_focal
from depth_anything_train.data.labels import decode_pair
from depth_anything_train.data.schema import LABELLED, BadSample
from depth_anything_train.data.sources import Sample, Source
from depth_anything_train.data.transforms import Geometry, check_aspect
from depth_anything_train.runtime import UserError, require_choice
from depth_anything_train.types import InputCrop

KB_HEIGHT, KB_WIDTH = 352, 1216
"""The window of KITTI's own benchmark: bottom rows, middle columns."""


class MetricSource(Source):
    """Images with labels in metres: `image`, `disparity` (h, w) float32 in 1/m, `valid` (h, w) bool, `key`.

    Inverse depth is what shards hold and what views resample; nothing is normalised. Sky teaches nothing here: it has
    no depth in metres. Neither do the Eigen and Garg crops, in which the published recipes evaluate but do not train.

    Args:
        folders, skip: as those of any source.
        min_depth_m, max_depth_m: depths that are trained on lie strictly between, after the next step.
        canonical_focal_px: brings the metres of all cameras to those of one, as `DepthModelConfig` has it; every sample
            has to state its focal length then.
        size: size of the views in pixels, as in `Geometry`; a focal length in pixels depends on it.
        crop: `kb` cuts image and label to KITTI's benchmark window, 352 x 1216 at the bottom's middle.

    Raises:
        UserError: as any source, or a range or crop that cannot be, or a canonical focal length without a size.
    """

    kind = LABELLED

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        min_depth_m: float,
        max_depth_m: float,
        canonical_focal_px: float | None = None,
        size: int | Sequence[int] | None = None,
        crop: InputCrop = "none",
        skip: Collection[str] = (),
    ) -> None:
        super().__init__(folders, skip=skip)
        if not 0 < min_depth_m < max_depth_m:
            raise UserError(f"Expected 0 < min_depth_m < max_depth_m, but got {min_depth_m} and {max_depth_m}.")
        require_choice("crop", crop, get_args(InputCrop))
        if canonical_focal_px is not None and (size is None or canonical_focal_px <= 0):
            raise UserError(
                "Expected a canonical_focal_px above 0 together with the size of the views, but got "
                f"{canonical_focal_px} and size={size}."
            )
        self.min_depth_m, self.max_depth_m, self.crop = min_depth_m, max_depth_m, crop
        self.canonical_focal_px, self.geometry = canonical_focal_px, Geometry(size) if size is not None else None

    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: as the decoders, `image_size` if the crop does not fit in, `no_camera` if a focal length is
                needed, or `no_valid_pixel`.
            UserError: the label is not in metres.
        """
        folder, number = self.locate(index)
        record = self.folders[folder][number]
        if record.unit != "m":
            raise UserError(
                f"Expected labels in metres in {self.folders[folder].path}, but sample {record.key} says "
                f"unit={record.unit}; prepare it with its scale (dataset.scale=1000 for millimetres), or put the "
                "sample on the list of bad keys."
            )
        image, disparity, valid = decode_pair(record)
        sample: Sample = {"image": image, "disparity": disparity, "valid": valid, "key": record.key}
        if self.crop == "kb":
            sample = kb_crop(sample)
        if self.canonical_focal_px is not None:
            sample["disparity"] = sample["disparity"] * np.float32(self._enlarged(sample, record.meta))
        return self._in_range(sample)

    def _enlarged(self, sample: Sample, meta: Mapping[str, Any]) -> float:
        """How many times larger than through the canonical lens things are in the view."""
        focal_px = read_focal(meta)
        if focal_px is None:
            raise BadSample(
                "no_camera",
                f"Sample {sample['key']} states no focal length (camera with fx and fy in its json), which "
                "model.canonical_focal_px needs.",
            )
        assert self.geometry is not None and self.canonical_focal_px is not None
        before = check_aspect(sample)
        return resized_focal(focal_px, before, self.geometry.sides(*before)) / self.canonical_focal_px

    def _in_range(self, sample: Sample) -> Sample:
        disparity, valid = sample["disparity"], sample["valid"]
        kept = valid & (disparity < 1 / self.min_depth_m) & (disparity > 1 / self.max_depth_m)
        if not kept.any():
            known = disparity[valid & (disparity > 0)]
            found = f"its median is {1 / np.median(known):.3g} m" if known.size else "none is measured"
            raise BadSample(
                "no_valid_pixel",
                f"No depth of sample {sample['key']} is between {self.min_depth_m:g} and {self.max_depth_m:g} m: "
                f"{found}; is its unit what its scale says?",
            )
        return {**sample, "disparity": np.where(kept, disparity, np.float32(0)), "valid": kept}


def kb_crop(sample: Sample) -> Sample:
    """Bottom rows and middle columns of image and label of one size.

    Raises:
        BadSample: `image_size`.
    """
    height, width = sample["image"].shape[:2]
    if height < KB_HEIGHT or width < KB_WIDTH or sample["disparity"].shape != (height, width):
        label = sample["disparity"].shape
        raise BadSample(
            "image_size",
            f"Expected image and label of one size of at least {KB_WIDTH} x {KB_HEIGHT} for the crop of KITTI, but "
            f"{sample['key']} has {width} x {height} and {label[1]} x {label[0]} pixels.",
        )
    top, left = height - KB_HEIGHT, (width - KB_WIDTH) // 2
    window = np.s_[top:, left : left + KB_WIDTH]
    return {name: x[window] if isinstance(x, np.ndarray) else x for name, x in sample.items()}
