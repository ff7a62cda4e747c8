"""Which domain an image is of: a small transformer over the deepest map of the decoder (ZoeDepth, two heads)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DIM, HEADS, LAYERS, HIDDEN = 128, 4, 4, 1024


class DomainRouter(nn.Module):
    """A map (B, C, h, w) to scores (B, domains).

    The public code adds the scores of a whole batch and gives all its images one domain; here an image's depth does
    not depend on its neighbours, so each is judged alone.
    """

    def __init__(self, features: int, domains: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(features, DIM, kernel_size=1)
        layer = nn.TransformerEncoderLayer(DIM, HEADS, dim_feedforward=HIDDEN, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.classifier = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, domains))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, domains), not normalised."""
        tokens = nn.functional.pad(self.embed(x).flatten(2), (1, 0)).transpose(1, 2)  # an empty one in front
        return self.classifier(self.transformer(tokens + positions(tokens.shape[1], like=tokens))[:, 0])


def positions(length: int, *, like: Tensor) -> Tensor:
    """Sines, then cosines, of each place at falling frequencies: (length, DIM)."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)[:, None]
    step = torch.arange(0, DIM, 2, device=like.device, dtype=like.dtype)
    angle = place * torch.exp(-step * math.log(10000.0) / DIM)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
