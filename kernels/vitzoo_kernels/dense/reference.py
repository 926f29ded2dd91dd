"""The definition of attention in this package, in plain PyTorch: what every kernel is measured against.

Shapes: B batch, H heads, D head dim, N_q queries, N_k keys, R chosen queries.
"""

import contextlib
from typing import Literal, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


@overload
def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax(q k^T * scale + bias) v, holding the whole (B, H, N_q, N_k) matrix.

    The arithmetic is in float32 (float64 for float64 inputs), also under autocast; the output is rounded once, to the
    dtype of `q`. What stands in a masked key, NaN included, never matters. A query that may look at no key, because
    of `key_mask` or because its bias is -inf everywhere, gets zeros, an lse of -inf and zero gradients. Any other NaN
    or infinity makes non-finite the rows it belongs to and no others. Everything has a gradient through autograd.

    Args:
        q: queries, (B, N_q, H, D), a floating dtype.
        k: keys, (B, N_k, H, D), dtype of `q`.
        v: values, (B, N_k, H, D), dtype of `q`.
        bias: added to the scaled scores, broadcast to (B, H, N_q, N_k).
        key_mask: bool, (B, N_k), True where attention may look.
        scale: factor on the scores; D ** -0.5 when None.
        dropout_p: share of the weights set to zero, by torch's global generator; the others grow by 1 / (1 - p).
        return_lse: also return the logarithm of each softmax denominator, before dropout.

    Returns:
        out, (B, N_q, H, D), contiguous, dtype of `q`; with `return_lse` also lse, (B, H, N_q), natural logarithm,
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes or dtypes disagree, or `dropout_p` is outside [0, 1].
    """
    if v.shape != k.shape or v.dtype != k.dtype:
        raise ValueError(
            f"v is {tuple(v.shape)} of {v.dtype} and k is {tuple(k.shape)} of {k.dtype}; they need one shape and dtype"
        )
    with _autocast_off(q.device):
        scores, no_key = _scores(q, k, scale=scale, bias=bias, key_mask=key_mask)
        weights = F.dropout(_softmax(scores, no_key), dropout_p)  # (B, H, N_q, N_k)
        values = _without_masked_keys(v.to(scores.dtype), key_mask)
        out = torch.einsum("bhqk,bkhd->bqhd", weights, values).to(q.dtype).contiguous()
        if not return_lse:
            return out
        lse = torch.logsumexp(scores, dim=-1)
        return out, lse if no_key is None else lse.masked_fill(no_key.squeeze(-1), -torch.inf)


def attention_rows(
    q_rows: Tensor,
    k: Tensor,
    lse: Tensor | None = None,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Compute the softmax rows of chosen queries, in memory proportional to R * N_k and the size of `k`.

    Args:
        q_rows: the chosen queries, (B, R, H, D).
        k: keys, (B, N_k, H, D), dtype of `q_rows`.
        lse: their logarithms of the softmax denominator, (B, H, R), as `attention` returned them; the rows are then
            exp(scores - lse), which are the weights that its output was made with. None: a softmax over the scores.
        scale: factor on the scores; D ** -0.5 when None.
        bias: added to the scaled scores, broadcast to (B, H, R, N_k).
        key_mask: bool, (B, N_k), True where attention may look.

    Returns:
        (B, H, R, N_k), float32 (float64 for float64 inputs); a query that may look at no key has a row of zeros.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    with _autocast_off(q_rows.device):
        scores, no_key = _scores(q_rows, k, scale=scale, bias=bias, key_mask=key_mask)
        if lse is None:
            return _softmax(scores, no_key)
        if lse.shape != scores.shape[:-1]:
            raise ValueError(
                f"lse is {tuple(lse.shape)}; these queries need (B, H, R) = {tuple(scores.shape[:-1])}: "
                "select the same queries from the lse as from q"
            )
        weights = torch.exp(scores - lse.to(scores.dtype).unsqueeze(-1))
        return weights if no_key is None else weights.masked_fill(no_key, 0.0)


def _scores(
    q: Tensor, k: Tensor, *, scale: float | None, bias: Tensor | None, key_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the scores, (B, H, N_q, N_k), and which queries may look at no key, broadcast to (B, H, N_q, 1)."""
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q is {tuple(q.shape)} and k is {tuple(k.shape)}; attention takes (B, N_q, H, D) and (B, N_k, H, D)"
        )
    if q.dtype != k.dtype or not q.dtype.is_floating_point:
        raise ValueError(f"q is {q.dtype} and k is {k.dtype}; attention takes one floating dtype: cast them first")
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    keys = _without_masked_keys(k.to(dtype), key_mask)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(dtype), keys) * scale

    allowed = None
    if bias is not None:
        _check_bias(bias, scores)
        scores = scores + bias.to(dtype)
        allowed = bias != -torch.inf
    if key_mask is not None:
        looks_at = rearrange(key_mask, "B N_k -> B 1 1 N_k")
        scores = scores.masked_fill(~looks_at, -torch.inf)
        allowed = looks_at if allowed is None else allowed & looks_at
    if allowed is None:
        return scores, None
    no_key = ~allowed.any(dim=-1, keepdim=True)
    no_key = no_key.reshape((1,) * (scores.ndim - no_key.ndim) + no_key.shape)
    # A row that is -inf everywhere has a NaN softmax, whose gradient stays NaN even where its value is replaced.
    return scores.masked_fill(no_key, 0.0), no_key


def _softmax(scores: Tensor, no_key: Tensor | None) -> Tensor:
    weights = torch.softmax(scores, dim=-1)
    return weights if no_key is None else weights.masked_fill(no_key, 0.0)


def _without_masked_keys(rows: Tensor, key_mask: Tensor | None) -> Tensor:
    """Return (B, N_k, H, D) with zeros in masked keys: a weight of 0 would not cancel a NaN that stands there."""
    if key_mask is None:
        return rows
    if key_mask.dtype != torch.bool or key_mask.shape != rows.shape[:2]:
        raise ValueError(
            f"key_mask is {tuple(key_mask.shape)} of {key_mask.dtype}; attention takes torch.bool of "
            f"(B, N_k) = {tuple(rows.shape[:2])}, True where attention may look"
        )
    return rows.masked_fill(~rearrange(key_mask, "B N_k -> B N_k 1 1"), 0.0)


def _check_bias(bias: Tensor, scores: Tensor) -> None:
    sizes = tuple(zip(reversed(bias.shape), reversed(scores.shape), strict=False))
    if not bias.dtype.is_floating_point or bias.ndim > 4 or any(b not in (1, s) for b, s in sizes):
        raise ValueError(
            f"bias is {tuple(bias.shape)} of {bias.dtype}; attention adds a floating tensor that broadcasts to "
            f"(B, H, N_q, N_k) = {tuple(scores.shape)}; for a bool mask of keys pass key_mask"
        )


def _autocast_off(device: torch.device) -> contextlib.AbstractContextManager[object]:
    # Autocast would cast the float32 operands of the matrix products back down.
    # torch.compile of torch 2.11 cannot trace the second question.
    if device.type in ("cpu", "cuda") or torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
