"""This model beside transformers' with the same weights, alternating in one run: time, and memory with gradients.

    python benchmarks/forward.py [--size S] [--model vits] [--device cpu] [--repeats 10] [--batch 1]
        [--precision float32 bfloat16]

Prints medians and the ratio ours / theirs, for each precision, forward alone and with backward. (A CPU without bf16
computes bfloat16 piecemeal, and takes very long.)
transformers runs as it comes: eager model, its default attention (SDPA).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.huggingface import save_hf

PRECISIONS = ("float32", "bfloat16")


def pair(name: str) -> tuple[DepthModel, nn.Module]:
    """Ours and transformers' model with the same random weights."""
    torch.manual_seed(0)
    ours = build(compose("train", ["experiment=tiny_teacher", f"model={name}", "out=unused"]).model)
    with tempfile.TemporaryDirectory() as folder:
        save_hf(folder, ours, size=ours.config.encoder.image_size, card="")
        theirs = transformers.DepthAnythingForDepthEstimation.from_pretrained(folder)
    return ours, theirs


def alternate(ways: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, called in turn, so that a busy moment of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 2):  # the first two warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """How far memory rises above what is in use before."""
    run()  # gradients exist now, and what is allocated once is there
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    level = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def report(what: str, medians: dict[str, float], unit: str, scale: float) -> None:
    figures = ", ".join(f"{name} {scale * value:.1f} {unit}" for name, value in medians.items())
    print(f"{what:34s} {figures}, ours / theirs = {medians['ours'] / medians['theirs']:.3f}", flush=True)


def compare(ours: nn.Module, theirs: nn.Module, image: Tensor, precision: str, repeats: int) -> None:
    """Print the ratios of one precision: forward, forward and backward, memory."""
    device = image.device.type

    def ours_of() -> Tensor:
        return ours(image.contiguous(memory_format=torch.channels_last))[:, 0]

    def theirs_of() -> Tensor:
        return theirs(image).predicted_depth

    def forward(model: Callable[[], Tensor]) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            return model()

    def inference(model: Callable[[], Tensor]) -> Tensor:
        with torch.inference_mode():
            return forward(model)

    def training(model: Callable[[], Tensor]) -> None:
        forward(model).float().mean().backward()

    models = {"theirs": theirs_of, "ours": ours_of}
    for what, run in (("forward", inference), ("forward and backward", training)):
        ours.train(run is training), theirs.train(run is training)
        ways = {name: (lambda model=model, run=run: run(model)) for name, model in models.items()}
        report(f"{precision} {what}", alternate(ways, repeats, device), "ms", 1e3)
    peaks = {name: float(peak_bytes(lambda model=model: training(model), device)) for name, model in models.items()}
    report(f"{precision} memory with backward", peaks, "MB", 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--model", default="vits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    arguments = parser.parse_args()
    device = arguments.device
    where = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"{arguments.model} at {arguments.size}, batch {arguments.batch}, {where}, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, median of {arguments.repeats}")  # fmt: skip

    ours, theirs = (model.to(device).eval() for model in pair(arguments.model))
    ours.to(memory_format=torch.channels_last)
    image = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    with torch.no_grad():
        mine, reference = ours(image)[:, 0], theirs(image).predicted_depth
    print(f"largest difference of the outputs, relative: {(mine - reference).abs().max() / reference.abs().max():.1e}")
    for precision in arguments.precision:
        compare(ours, theirs, image, precision, arguments.repeats)


if __name__ == "__main__":
    main()
