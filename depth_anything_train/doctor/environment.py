"""The hardware and libraries available for training."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import torch

from depth_anything_train.data.sources import Source
from depth_anything_train.doctor.outcome import Outcome
from depth_anything_train.models.flops import peak_flops
from depth_anything_train.ops.precision import cpu_multiplies_bfloat16

READ_BYTES, ENOUGH_BYTES = 1 << 28, 1 << 24


def check_device(device: torch.device) -> Outcome:
    """Versions, the device and what it can do."""
    versions = f"torch {torch.__version__}"
    if device.type != "cuda":
        threads, bf16 = torch.get_num_threads(), cpu_multiplies_bfloat16()
        found = f"{versions}, {device.type}, {threads} threads, bf16 in hardware: {bf16}"
        return Outcome("device", "ok", f"{found}. Enough for small sizes; the paper's need GPUs.")
    properties = torch.cuda.get_device_properties(device)
    peak = peak_flops(properties.name)
    found = (
        f"{versions}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} x {properties.name}, "
        f"{properties.total_memory / 1e9:.0f} GB, "
        + (f"{peak / 1e12:.0f} TFLOP/s at most" if peak else "peak unknown: utilisation is not logged")
    )
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Outcome("device", "warning", f"{found}. It has no bf16: training runs in float32.")
    return Outcome("device", "ok", found + ".")


def check_attention(device: torch.device) -> Outcome:
    """The kernels that torch may choose from, and whether xformers is there."""
    cuda = torch.backends.cuda
    enabled = {
        "cudnn": cuda.cudnn_sdp_enabled(),
        "flash": cuda.flash_sdp_enabled(),
        "memory efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    xformers = "installed" if importlib.util.find_spec("xformers") else "not installed, which is fine"
    kernels = ", ".join(name for name, on in enabled.items() if on) if device.type == "cuda" else "torch's for the CPU"
    return Outcome("attention", "ok", f"{kernels}; xformers {xformers}.")


def check_disk(sources: dict[str, Source]) -> Outcome:
    """How fast one process reads the first shard, or its first 256 MB; what was read before may come from memory."""
    rates = {}
    for name, source in sources.items():
        shard = source.images[0].shards[0]
        if not isinstance(shard, Path):
            continue
        start, read = time.perf_counter(), 0
        with open(shard, "rb", buffering=0) as file:
            while read < READ_BYTES and (block := file.read(1 << 22)):
                read += len(block)
        if read >= ENOUGH_BYTES:
            rates[name] = read / (time.perf_counter() - start) / 1e6
    if not rates:
        return Outcome("disk", "ok", "the shards are remote, or too small to tell.")
    found = ", ".join(f"{name} {rate:,.0f} MB/s" for name, rate in rates.items())
    if min(rates.values()) < 50:
        return Outcome("disk", "warning", f"{found}. That is slow: a step of 192 images reads 20 to 100 MB.")
    return Outcome("disk", "ok", f"{found}, or what the page cache holds.")
