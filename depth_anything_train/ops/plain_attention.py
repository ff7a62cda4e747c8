"""Softmax attention in plain products, which in bfloat16 on some CPUs are faster than torch's fused kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IS_FASTER = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
"""On CPUs with AVX-512 for bfloat16. Those without would take 3 to 16 times as long; with AMX it was not measured."""

ROWS = 256
"""Queries that are worked on at a time: the system takes larger scores back after each use, and clears them anew."""


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`scaled_dot_product_attention`, (B, heads, N, channels of a head) to the same shape.

    Of the scores nothing is stored: backward computes them again, some rows at a time.
    """
    result: Tensor = _PlainAttention.apply(query, key, value)
    return result


def _by_head(*inputs: Tensor) -> list[Tensor]:
    return [x.reshape(-1, *x.shape[-2:]) for x in inputs]  # (B * heads, N, channels)


class _PlainAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        queries, keys, values = _by_head(query * query.shape[-1] ** -0.5, key, value)
        parts = [(rows @ keys.mT).softmax(dim=-1) @ values for rows in queries.split(ROWS, dim=1)]
        return torch.cat(parts, dim=1).view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        scale = query.shape[-1] ** -0.5
        queries, keys, values, gradients = _by_head(query * scale, key, value, gradient)
        of_queries, of_keys, of_values = [], torch.zeros_like(keys), torch.zeros_like(values)
        for rows, given in zip(queries.split(ROWS, dim=1), gradients.split(ROWS, dim=1), strict=True):
            shares = (rows @ keys.mT).softmax(dim=-1)
            of_values.baddbmm_(shares.mT, given)
            of_scores = torch._softmax_backward_data(given @ values.mT, shares, -1, shares.dtype)
            of_queries.append(of_scores @ keys * scale)
            of_keys.baddbmm_(of_scores.mT, rows)
        return torch.cat(of_queries, dim=1).view(query.shape), of_keys.view(key.shape), of_values.view(value.shape)
