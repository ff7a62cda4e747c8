"""Softmax attention in plain products, which in bfloat16 on some CPUs are faster than torch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from depth_anything_train.ops.precision import cpu_multiplies_bfloat16

IS_FASTER = cpu_multiplies_bfloat16() and not torch.cpu.get_capabilities().get("amx_tile")
"""On CPUs with AVX-512 for bfloat16. Those without would take 3 to 16 times as long; with AMX it was not measured."""

ROWS, SCORES = 256, 2**22
"""Queries of a head, and scores, that are worked on at a time: the system takes memory of more than 32 MiB back after
each use, and to clear it anew takes longer than the products in it."""


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`scaled_dot_product_attention`, (B, heads, N, channels of a head) to the same shape.

    Scores and shares are rounded to the type of the inputs, which torch's kernel keeps in float32. None are stored:
    backward computes them again, some rows at a time.
    """
    result: Tensor = _PlainAttention.apply(query, key, value)
    return result


class _PlainAttention(torch.autograd.Function):
    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = _some_heads(query * query.shape[-1] ** -0.5, key, value)
        return torch.cat([_attend(*some) for some in heads]).view(query.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors
        scale = query.shape[-1] ** -0.5
        heads = _some_heads(query * scale, key, value, gradient)
        of_query, of_key, of_value = map(torch.cat, zip(*(_gradients(*some) for some in heads), strict=True))
        return (of_query * scale).view(query.shape), of_key.view(key.shape), of_value.view(value.shape)


def _some_heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of all of them, (heads of any image, N, channels), whose scores can be worked on together.

    Contiguous, or each product would copy its keys and values again: a tenth of the time.
    """
    tokens = tensors[0].shape[-2]
    together = max(SCORES // max(min(ROWS, tokens) * tokens, 1), 1)
    return zip(*(x.flatten(0, -3).contiguous().split(together) for x in tensors), strict=True)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.cat([_shares(rows, keys) @ values for rows in queries.split(ROWS, dim=1)], dim=1)


def _gradients(queries: Tensor, keys: Tensor, values: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    of_queries, of_keys, of_values = [], torch.zeros_like(keys), torch.zeros_like(values)
    for rows, given in zip(queries.split(ROWS, dim=1), gradients.split(ROWS, dim=1), strict=True):
        shares = _shares(rows, keys)
        of_values.baddbmm_(shares.mT, given)
        of_scores = torch._softmax_backward_data(given @ values.mT, shares, -1, shares.dtype)
        of_queries.append(of_scores @ keys)
        of_keys.baddbmm_(of_scores.mT, rows)
    return torch.cat(of_queries, dim=1), of_keys, of_values


def _shares(rows: Tensor, keys: Tensor) -> Tensor:
    return (rows @ keys.mT).softmax(dim=-1)
