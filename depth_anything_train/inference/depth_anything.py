"""The model as people use it: load, predict, save."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_anything_train.data.camera import resized_focal
from depth_anything_train.data.schema import BadSample
from depth_anything_train.files import require_writable
from depth_anything_train.inference.card import model_card
from depth_anything_train.inference.device import choose_device
from depth_anything_train.inference.exif import stated_focal
from depth_anything_train.inference.prediction import Focals, ImageLike, Kind, Prediction, load_image
from depth_anything_train.inference.preprocess import Size, network_size, plain_size, prepare
from depth_anything_train.models.attention import Kernel, set_kernel
from depth_anything_train.models.checkpoints import FILES, save_model
from depth_anything_train.models.depth_model import RELEASED_SIZE, DepthModel
from depth_anything_train.models.huggingface import CONFIG, save_hf
from depth_anything_train.models.loading import load_depth_model
from depth_anything_train.models.original import save_original
from depth_anything_train.models.weights import weights_hash
from depth_anything_train.ops.finite import check_finite
from depth_anything_train.runtime import UserError, require_choice
from depth_anything_train.types import Image

Format = Literal["native", "hf", "original"]
Precision = Literal["fp32", "bf16"]

MARKS = {"native": FILES.description, "hf": CONFIG}
"""What tells a folder of each format from the other; their weights have one name."""

BATCH = 8
"""Photographs of a list that go through the network together."""


class DepthAnything:
    """A depth model with its preparation of photographs.

    Args:
        model: the network; it is put into evaluation mode.
        size: shorter side in pixels at which it sees a photograph unless told otherwise, or (height, width).
        extra: what is stored beside the weights (training size, provenance); passed on by `save_pretrained`.
        device: where it runs; a CUDA device where there is one.
        precision: `fp32`, or `bf16` for weights and features in bfloat16 with the last convolution in float32.
        attention: `sdpa` or `xformers`; see `models.attention`.
        compile: compile the network, anew for each size of image: slow at first, then faster.

    Raises:
        UserError: the device cannot be used, or a setting is unknown.
    """

    def __init__(
        self,
        model: DepthModel,
        *,
        size: Size = RELEASED_SIZE,
        extra: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        attention: Kernel = "sdpa",
        compile: bool = False,
    ) -> None:
        require_choice("precision", precision, get_args(Precision))
        self.device = choose_device(device)
        self.model = model.eval()
        set_kernel(self.model, attention)
        self._rounded = precision == "bf16"
        if self._rounded:
            _ = self.hash  # of the weights as they came
            self.model.to_bfloat16()
        self.model = self.model.to(self.device).to(memory_format=torch.channels_last)
        self.size = plain_size(size)
        self.extra = {**(extra or {}), "size": self.size}
        self._compile = compile
        self._compiled: tuple[DepthModel, Any] | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        taps: str | Sequence[int] | None = None,
        max_depth_m: float | None = None,
        num_heads: int | None = None,
        **options: Any,
    ) -> DepthAnything:
        """Load a model from wherever it is.

        Args:
            source: a model folder or run folder of ours, a checkpoint of a run (`.ckpt`), a Hugging Face folder, a file
                of such a folder, a released `.pth`, or `owner/name` on the Hugging Face hub.
            taps: for a `.pth` whose name does not say it: `last4` (V1), `spread` (V2) or four 0-based blocks.
            max_depth_m: for a metric `.pth` whose name does not say it: farthest depth in metres.
            num_heads: for a `.pth` of no released size: its attention heads.
            options: device, precision, attention and compile, as of the class.

        Raises:
            UserError: there is no such model, or its files are damaged or do not belong together.
        """
        model, extra = load_depth_model(source, taps=taps, max_depth_m=max_depth_m, num_heads=num_heads)
        if not (isinstance(extra["size"], int) or _is_pair(extra["size"])):
            raise UserError(
                f"Expected a whole number or [height, width] as extra.size of {source}, but it says {extra['size']!r}."
            )
        return cls(model, size=extra["size"], extra=extra, **options)

    def save_pretrained(self, folder: str | Path, format: Format = "native") -> None:
        """Write the model for `from_pretrained` and others.

        Args:
            folder: is made where it is missing.
            format: `native` keeps everything (`model.safetensors` and `model.json`); `hf` is what transformers loads,
                with its processor and a model card; `original` is a `.pth` for the released code.

        Raises:
            UserError: the format is unknown or cannot hold the model, the folder cannot be written to or holds one of
                another format, or the weights were rounded to bfloat16.
        """
        folder = Path(folder).expanduser()
        if format not in get_args(Format):
            raise UserError(f"Expected a format out of {', '.join(get_args(Format))}, but got {format!r}.")
        if format != "native" and self.model.config.canonical_focal_px is not None:
            raise UserError(
                f"Expected format=native for a model with a canonical camera: readers of format={format} know nothing "
                "of focal lengths and would take its numbers for metres."
            )
        if self._rounded:
            raise UserError("Expected the full weights to save, but they were rounded; load with precision=fp32.")
        if other := [
            name for of, name in MARKS.items() if of != format and format in MARKS and (folder / name).exists()
        ]:
            raise UserError(
                f"Expected no model of another format in {folder}, whose weights have the same name, but {other[0]} is "
                "there; name another folder."
            )
        require_writable(folder)
        if format == "native":
            save_model(folder, self.model, self.extra)
        elif format == "hf":
            save_hf(folder, self.model, size=self.size, card=model_card(self.model.config, self.extra))
        else:
            save_original(folder, self.model)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the weights as they came, as in `model.json`."""
        return weights_hash(self.model)

    @property
    def setup(self) -> dict[str, Any]:
        """What else decides its numbers, as plain JSON; see `DepthModelConfig.setup`."""
        return self.model.config.setup()

    @property
    def _network(self) -> Any:
        """The model, compiled if it is to be; another one may have taken its place."""
        if not self._compile:
            return self.model
        if self._compiled is None or self._compiled[0] is not self.model:
            self._compiled = self.model, torch.compile(self.model, dynamic=False)
        return self._compiled[1]

    @property
    def kind(self) -> Kind:
        """`relative`, or `metric` for a model that predicts metres."""
        return self.model.config.kind

    @property
    def encoder_name(self) -> str:
        """What the papers' rows tell models apart by: vits, vitb, vitl, vitg, or a name of one's own."""
        return self.model.config.encoder.name

    @property
    def max_depth_m(self) -> float | None:
        """How far a metric model sees; None of a relative one."""
        return self.model.config.max_depth_m

    def check_size(self, size: Size | None) -> None:
        """Refuse a size that the network cannot take, whatever the photograph.

        Raises:
            UserError: the network cannot take this size.
        """
        network_size(1, 1, self.size if size is None else size, patch=self.model.config.encoder.patch_size)

    def prepare(self, image: NDArray[np.uint8], size: Size | None = None, *, fast: bool = False) -> Image:
        """What the network sees of an RGB image (H, W, 3), (1, 3, h, w); see `preprocess.prepare`.

        Raises:
            UserError: the network cannot take the image at that size.
        """
        return self._prepare([image], size, fast=fast)

    @torch.inference_mode()
    def infer(self, image: Image) -> Tensor:
        """What the network states, (B, 1, h, w) float32 on its device, for prepared images (B, 3, h, w)."""
        dtype = self.model.pretrained.cls_token.dtype
        return self._network(image.to(self.device, dtype, memory_format=torch.channels_last)).float()

    def _prepare(self, images: list[NDArray[np.uint8]], size: Size | None, *, fast: bool = False) -> Image:
        size = self.size if size is None else size
        return prepare(images, size, patch=self.model.config.encoder.patch_size, fast=fast)

    def forward_prepared(self, prepared: Sequence[Any], size: Size | None = None) -> list[NDArray[np.float32]]:
        """What the network states, (h, w) each, for what `prepare` gave at one size, (1, 3, h, w) each.

        `to_camera` is still to come: with a canonical camera these are not yet metres. `size` is for models whose
        `prepare` leaves the size to this.
        """
        return list(self.infer(torch.cat(list(prepared)))[:, 0].cpu().numpy())

    def forward(
        self, images: list[NDArray[np.uint8]], size: Size | None = None, focals_px: Focals = None
    ) -> list[NDArray[np.float32]]:
        """What the model states, (h, w) at the network's resolution, for RGB images (H, W, 3) of one common size.

        Relative disparity of a relative model, metres of a metric one.

        Raises:
            BadSample: as `to_camera`.
        """
        maps, focals_px = self.infer(self._prepare(images, size))[:, 0].cpu().numpy(), focals_px or [None] * len(images)
        return [self.to_camera(*of_one, images[0].shape) for of_one in zip(maps, focals_px, strict=True)]

    @property
    def needs_camera(self) -> bool:
        """Whether it knows metres only together with a focal length (`DepthModelConfig.canonical_focal_px`)."""
        return self.model.config.canonical_focal_px is not None

    def check_camera(self, focal_px: float | None) -> None:
        """Refuse a photograph whose focal length is needed but unknown.

        Raises:
            BadSample: `no_camera`.
        """
        if self.needs_camera and focal_px is None:
            raise BadSample(
                "no_camera",
                "Expected a focal length, without which this model knows no metres, but nothing states it, nor would "
                "EXIF: give focal_px= in pixels of the photograph, on the command line fov_deg= or intrinsics=, in "
                "shards the camera of a sample's json.",
            )

    def to_camera(
        self, values: NDArray[np.float32], focal_px: float | None, shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """What the network states (h, w) about a photograph of that shape, for the camera that took it.

        They differ for metric models with a canonical camera alone.

        Raises:
            BadSample: as `check_camera`.
        """
        self.check_camera(focal_px)
        canonical = self.model.config.canonical_focal_px
        if canonical is None or focal_px is None:
            return values
        return values * np.float32(resized_focal(focal_px, shape, values.shape) / canonical)

    @overload
    def predict(self, image: ImageLike, size: Size | None = None, focal_px: float | None = None) -> Prediction: ...

    @overload
    def predict(
        self, image: list[Any], size: Size | None = None, focal_px: float | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, image: ImageLike | list[Any], size: Size | None = None, focal_px: float | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one photograph at its own size, or each of a list; those of one size go through the network together.

        Args:
            image: path, encoded bytes, a Pillow image, or uint8: RGB (H, W, 3), with alpha (H, W, 4), grey (H, W); or
                a list of such.
            size: shorter side in pixels for the network; the size it was trained at by default.
            focal_px: focal length of the camera in pixels of the photograph, where its EXIF does not state it; only
                read by models with a canonical camera.

        Raises:
            UserError: no such file, an array of another shape, a size or focal length that cannot be, or a model that
                states NaN or infinity.
            BadSample: an image that is not sound, or as `to_camera`.
        """
        if isinstance(image, list):
            loaded = [_load_named(one, number) for number, one in enumerate(image)]
            return self._predict_all(image, loaded, size, focal_px)
        return self._predict_all([image], [load_image(image)], size, focal_px)[0]

    def _predict_all(
        self,
        images: Sequence[ImageLike],
        loaded: Sequence[NDArray[np.uint8]],
        size: Size | None,
        focal_px: float | None,
    ) -> list[Prediction]:
        if focal_px is not None and not 0 < focal_px < math.inf:
            raise UserError(f"Expected focal_px above 0, in pixels of the photograph, but got {focal_px}.")
        unknown = self.needs_camera and focal_px is None
        focals_px = [stated_focal(image) if unknown else focal_px for image in images]
        of_one_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, one in enumerate(loaded):
            of_one_size[one.shape].append(index)
        found: dict[int, Prediction] = {}
        for (height, width, _), indices in of_one_size.items():
            for start in range(0, len(indices), BATCH):
                batch = indices[start : start + BATCH]
                pixels, focals = [loaded[index] for index in batch], [focals_px[index] for index in batch]
                maps = self.forward(pixels, size, focals)
                check_finite(*maps)
                stated = (Prediction(values, self.kind, self.max_depth_m) for values in maps)
                predictions = (prediction.resized(height, width) for prediction in stated)
                found.update(zip(batch, predictions, strict=True))
        return [found[index] for index in range(len(loaded))]


def _load_named(image: ImageLike, number: int) -> NDArray[np.uint8]:
    try:
        return load_image(image)
    except BadSample as error:
        name = image if isinstance(image, str | Path) else f"image {number}"
        raise BadSample(error.reason, f"{name}: {error}") from None
    except UserError as error:  # names a file itself
        raise UserError(f"image {number}: {error}") from None


def _is_pair(size: Any) -> bool:
    return isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
