"""A tiny SegFormer with random weights in a transformers folder."""

from __future__ import annotations

from pathlib import Path

import torch

NAMES = {0: "wall", 1: "building, edifice", 2: "floor", 3: "sky, heavens", 4: "skyscraper"}


def save(folder: Path, names: dict[int, str] = NAMES, side: int = 64) -> Path:
    """Save one as transformers does, weights and image processor."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8, id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
