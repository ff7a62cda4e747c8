"""Small depth models with random weights."""

import torch

from depth_anything_train.models.depth_model import build_depth_model


def build(seed=0, **changes):
    torch.manual_seed(seed)
    plain = dict(name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8, 8, 8, 8], image_size=56)
    return build_depth_model(**{**plain, **changes})


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
