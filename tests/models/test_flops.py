"""Counts are compared with those of transformers' model of the same size, which were made by the same counter."""

import pytest
import torch

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.models.flops import count_flops, peak_flops
from depth_anything_train.runtime import UserError

# 10^9 operations at 518 x 518: (forward of transformers' model, its encoder, channels of the decoder)
COUNTED = {"vits": (115.3, 93.4, 64), "vitb": (380.7, 303.1, 128), "vitl": (1304.2, 1013.6, 256)}


def config(name):
    cfg = compose("train", ["experiment=tiny_teacher", f"model={name}", "out=run"])
    with torch.device("meta"):
        return build(cfg.model).config


@pytest.mark.parametrize("name", COUNTED)
def test_count_flops__is_that_of_transformers_less_what_the_decoder_saves(name):
    """Our decoder applies its 1 x 1 convolutions before it doubles a map's sides: a quarter of the work."""
    forward, encoder, channels = COUNTED[name]
    sides = [37, 74, 148]  # of the maps that are enlarged to 2 x 37, 4 x 37 and 8 x 37
    sizes = [19, *sides]  # before the enlargement
    flops = count_flops(config(name), 518, 518)
    large = sum(2 * channels**2 * side**2 for side in (37, 74, 148, 296))
    small = sum(2 * channels**2 * side**2 for side in sizes)
    assert flops.encoder == pytest.approx(encoder * 1e9, abs=5e7)
    assert flops.forward == pytest.approx(forward * 1e9 - (large - small), abs=5e7)
    assert flops.training == pytest.approx(3 * flops.forward, rel=0.01)


def test_count_flops__grows_with_the_image_and_refuses_odd_sides():
    model = config("vits")
    assert count_flops(model, 518, 686).forward > 1.4 * count_flops(model, 518, 518).forward
    with pytest.raises(UserError, match="multiples of the patch size"):
        count_flops(model, 518, 520)


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA RTX 6000 Ada Generation", 364), ("Tesla T4", 65),
    ],
)  # fmt: skip
def test_peak_flops__the_longest_fitting_entry_counts(name, tflops):
    assert peak_flops(name) == tflops * 1e12


def test_peak_flops__of_an_unknown_device_is_unknown():
    assert peak_flops("NVIDIA GeForce GTX 1080") is None
