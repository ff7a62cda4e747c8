"""A model as an ONNX graph: prepared images in, one number a pixel out; docs/export.md says what to feed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from depth_anything_train.files import write_bytes
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.ops.normalisation import IMAGENET_MEAN, IMAGENET_STD
from depth_anything_train.ops.positions import positions_by_matrices
from depth_anything_train.runtime import UserError, import_extra, require_count

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference from PyTorch that is accepted, as a share of the largest value."""

LARGEST_FILE = 2**31 - 2**24  # protobuf ends at 2 GiB; the graph besides the weights is far below 16 MiB
INPUT = "image"
OUTPUTS = {"relative": "disparity", "metric": "depth_m"}

Size = tuple[int, int]


def export_onnx(
    model: DepthAnything, path: str | Path, *, size: int | Sequence[int] | None = None, batch_size: int | None = None
) -> float:
    """Write a model as an ONNX file, after checking it against PyTorch; until then no file of that name appears.

    Args:
        model: what is exported.
        path: the file.
        size: side of the square image, or (height, width), in pixels; None leaves both to whoever runs the graph.
        batch_size: number of images; None leaves it open.

    Returns:
        The largest difference from PyTorch that was found, as a share of the largest value.

    Raises:
        UserError: a size or number of images that the model cannot take, weights of 2 GiB or more, or a graph that
            gives other numbers.
    """
    if batch_size is not None:
        require_count("batch_size", batch_size)
    import_extra("onnxruntime", extra="onnx")  # for the check, which comes after minutes
    weights = sum(tensor.nbytes for tensor in model.model.state_dict().values())
    if weights > LARGEST_FILE:
        raise UserError(f"Expected a model below 2 GiB, which an ONNX file can hold, but it has {weights:,} bytes.")
    content = build_graph(model, size=_sides(size, model), batch_size=batch_size)
    difference = check_onnx(content, model)
    write_bytes(path, content)
    return difference


def check_onnx(source: str | Path | bytes, model: DepthAnything) -> float:
    """Run an ONNX file with onnxruntime beside the model, on images of several sizes and batches where these are open.

    Args:
        source: the file, or its content.
        model: which it was exported from.

    Returns:
        The largest difference, as a share of the largest value.

    Raises:
        UserError: it cannot be run, is of another model, or differs by more than `TOLERANCE`.
    """
    name = "The graph" if isinstance(source, bytes) else str(source)
    session = _open(source, name)
    names = [node.name for node in (*session.get_inputs(), *session.get_outputs())]
    if names != [INPUT, OUTPUTS[model.kind]]:
        raise UserError(f"Expected a graph from {INPUT} to {OUTPUTS[model.kind]}, but {name} has {names}.")
    if session.get_modelmeta().custom_metadata_map.get("sha256") != model.hash:
        raise UserError(f"{name} was exported from other weights than these; export it again.")
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for shape in _shapes(session.get_inputs()[0].shape, model.model):
        image = torch.randn(shape, generator=generator)
        expected = model.infer(image).cpu().numpy()
        (found,) = session.run(None, {INPUT: image.numpy()})
        difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
        if found.shape != expected.shape or not difference <= TOLERANCE:
            raise UserError(f"{name} differs from PyTorch by {difference:.1e} of the largest value at {shape}.")
        largest = max(largest, difference)
    return largest


def build_graph(model: DepthAnything, *, size: Size | None, batch_size: int | None) -> bytes:
    """The content of the ONNX file, unchecked; the same model gives the same bytes.

    Raises:
        UserError: the libraries of the `onnx` extra are missing.
    """
    onnx = import_extra("onnx", extra="onnx")
    import_extra("onnxscript", extra="onnx")
    config = model.model.config
    patch = config.encoder.patch_size
    # An example with no side that is 1 or equals another: PyTorch would take that for a rule.
    example = torch.zeros(batch_size or 2, 3, *(size or (3 * patch, 5 * patch)))
    free: dict[int, Any] = {} if batch_size else {0: Dim("batch")}
    free |= {} if size else {2: patch * Dim("rows"), 3: patch * Dim("columns")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about parts of itself
        program = torch.onnx.export(
            _exportable(model.model),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUTS[model.kind]],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    lengths = proto.graph.input[0].type.tensor_type.shape.dim
    assert all(lengths[axis].dim_param for axis in free), "the exporter fixed a length that was to stay open"
    _remove_traces(proto.graph)
    onnx.helper.set_model_props(proto, _metadata(model, size))
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


class _Encoder(DinoV2Encoder):
    """The encoder with position embeddings resampled by two matrices, which the graph makes from the image's size."""

    def positions(self, grid: tuple[int, int]) -> Tensor:
        return positions_by_matrices(self.pos_embed, grid, self.config.position)


def _exportable(model: DepthModel) -> DepthModel:
    with torch.device("meta"):
        copy = DepthModel(model.config)
        copy.pretrained = _Encoder(model.config.encoder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    return copy.eval()


def _remove_traces(graph: Any) -> None:
    """Take out where in whose source files each node comes from, and shapes that every runtime infers itself."""
    graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _metadata(model: DepthAnything, sides: Size | None) -> dict[str, str]:
    config = model.model.config
    facts = {
        "kind": config.kind,
        "max_depth_m": config.max_depth_m,
        "canonical_focal_px": config.canonical_focal_px,
        "taps": list(config.encoder.taps),
        "size": model.size if sides is None else list(sides),
        "patch_size": config.encoder.patch_size,
        "position": config.encoder.position,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "sha256": model.hash,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def _sides(size: int | Sequence[int] | None, model: DepthAnything) -> Size | None:
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    patch = model.model.config.encoder.patch_size
    if len(sides) != 2 or any(side < 1 or side % patch for side in sides):
        raise UserError(
            f"Expected size as a multiple of the patch size {patch}, or [height,width] of such, but got {size}."
        )
    return sides[0], sides[1]


def _open(source: str | Path | bytes, name: str) -> Any:
    onnxruntime = import_extra("onnxruntime", extra="onnx")
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has a class for each of its reasons, and none above them
        raise UserError(f"Expected an ONNX file that can be run, but {name} cannot: {error}") from None


def _shapes(declared: list[int | str], model: DepthModel) -> Iterator[tuple[int, ...]]:
    """Shapes to compare at: declared lengths as they are; open ones at, below and above the native grid, unequal."""
    config = model.config.encoder
    side = config.image_size // config.patch_size
    grids = [(1, side, side), (2, max(side // 2, 1), side + 1), (1, side + 2, max(side - 2, 1))]
    tried = set()
    for batch, rows, columns in grids:
        wanted = (batch, 3, rows * config.patch_size, columns * config.patch_size)
        shape = tuple(given if isinstance(given, int) else own for given, own in zip(declared, wanted, strict=True))
        if shape not in tried:
            tried.add(shape)
            yield shape
