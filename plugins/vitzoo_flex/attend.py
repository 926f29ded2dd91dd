"""FlexAttention behind the signature of a vitzoo backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

# Graphs of one compiled function: one for each combination of dtype, head dim, number of heads and options, and where
# shapes are not dynamic, for each of those too.
GRAPHS = 256


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Attend with FlexAttention; the first call of a kind compiles it, which takes seconds.

    Args:
        q: (B, N_q, H, D).
        k: (B, N_k, H, D).
        v: (B, N_k, H, D).
        bias: added to the scores, broadcastable to (B, H, N_q, N_k).
        key_mask: (B, N_k), True where attention may look; with no such key the result is zeros.
        scale: factor on the scores; D ** -0.5 when None.
        return_lse: return the log-sum-exp too; not on a CPU.

    Returns:
        (B, N_q, H, D), contiguous; with `return_lse` also lse (B, H, N_q), float32, natural logarithm.

    Source: FlexAttention, arXiv 2412.05496.
    """
    if torch.compiler.is_compiling():
        # Inside another compiled graph it is traced with the rest.
        return _attend(q, k, v, bias, key_mask, scale, return_lse)
    # With dynamic shapes torch 2.15 writes C++ for a changed score that does not compile: names that it never declares.
    dynamic = q.device.type != "cpu" or (bias is None and key_mask is None)
    return compiled(dynamic)(q, k, v, bias, key_mask, scale, return_lse)


@cache
def compiled(dynamic: bool) -> Callable[..., Any]:
    """Return the compiled function, for any sizes or with a graph for each; made at the first call."""
    # Beyond the limit it raises: fullgraph=True forbids the way that holds all scores in memory, which would only warn.
    compile: Any = torch.compile  # torch's types do not know all of its arguments
    return compile(_attend, fullgraph=True, dynamic=dynamic, recompile_limit=GRAPHS, isolate_recompiles=True)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    scale: float | None,
    return_lse: bool,
) -> Any:
    result: Any = flex_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        score_mod=_score_mod(bias, key_mask),
        scale=scale,
        return_aux=AuxRequest(lse=True) if return_lse else None,
    )
    if not return_lse:
        return result.transpose(1, 2).contiguous()
    out, aux = result
    return out.transpose(1, 2).contiguous(), aux.lse


def _score_mod(bias: Tensor | None, key_mask: Tensor | None) -> Callable[..., Tensor] | None:
    """Return what changes one score, or None when nothing does."""
    if bias is None and key_mask is None:
        return None

    if bias is not None:
        bias = bias[(None,) * (4 - bias.ndim)]

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if bias is not None:
            place = (batch, head, query, key)
            # A bias that is the same for all queries is read from its one row, never written out.
            score = score + bias[tuple(at if n > 1 else 0 for at, n in zip(place, bias.shape, strict=True))]
        if key_mask is not None:
            score = torch.where(key_mask[batch, key], score, -float("inf"))
        return score

    return modify
