"""Attention twice, for the budget: the truth in float64, and an honest computation in the dtype under test."""

from typing import Any

import torch
from torch import Tensor


def exact_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout: tuple[Tensor, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute attention by the textbook formula in float64: the truth of the budget.

    Args:
        q: queries, (B, N_q, H, D).
        k: keys, (B, N_k, H, D).
        v: values, (B, N_k, H, D).
        bias: added to the scaled scores, broadcast to (B, H, N_q, N_k).
        key_mask: bool, (B, N_k), True where attention may look.
        scale: factor on the scores; D ** -0.5 when None.
        dropout: which weights are kept, bool, (B, H, N_q, N_k), and the share that is not; the kept ones grow.

    Returns:
        out, (B, N_q, H, D), and lse, (B, H, N_q), both float64. A query that may look at no key has zeros and -inf.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * scale
    scores, no_key = _masked(scores, bias, key_mask)
    weights = scores.softmax(dim=-1).masked_fill(no_key, 0.0)
    if dropout is not None:
        weights = weights * _factors(*dropout, weights)
    out = torch.einsum("bhqk,bkhd->bqhd", weights, v.double())
    return out, scores.logsumexp(dim=-1).masked_fill(no_key.squeeze(-1), -torch.inf)


def low_precision_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout: tuple[Tensor, float] | None = None,
    order: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute attention, and its gradients, with every tensor rounded to the dtype of `q`: the yardstick of the budget.

    Each product is summed one term after the other in float32, in a random order, and rounded at the end: no library's
    matrix product decides how wrong an honest result may be. The scale goes onto the keys before the product, the
    division comes after the values, and the backward recomputes the weights from the scores and lse and subtracts the
    sum of out * dout, as attention kernels do. Factors of float32 products are cut to TF32 where torch allows that.

    Args:
        q: queries, (B, N_q, H, D).
        k: keys, (B, N_k, H, D).
        v: values, (B, N_k, H, D).
        bias: added to the scaled scores, broadcast to (B, H, N_q, N_k).
        key_mask: bool, (B, N_k), True where attention may look.
        scale: factor on the scores; D ** -0.5 when None.
        dropout: which weights are kept, bool, (B, H, N_q, N_k), and the share that is not; the kept ones grow.
        order: seed of the order in which the sums run.

    Returns:
        out, (B, N_q, H, D), and lse, (B, H, N_q), in the dtype of `q`. A query that may look at no key has zeros and
        -inf.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # (B, H, N, D), so that products are over the last two dimensions.
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    factors = None if dropout is None else _factors(*dropout, q)
    out, lse = _LowPrecisionAttention.apply(*heads_first, bias, key_mask, factors, scale, order)
    return out.transpose(1, 2), lse


class _LowPrecisionAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        key_mask: Tensor | None,
        factors: Tensor | None,
        scale: float,
        order: int,
    ) -> tuple[Tensor, Tensor]:
        shuffle = torch.Generator().manual_seed(order)
        scaled = k * scale
        scores, no_key = _masked(_product(q, scaled.mT, shuffle), bias, key_mask)
        shift = scores.amax(dim=-1, keepdim=True)
        weights = (scores - shift).exp().masked_fill(no_key, 0.0)  # (B, H, N_q, N_k), not yet normalised
        total = _product(weights, weights.new_ones(weights.shape[-1], 1), shuffle).masked_fill(no_key, 1.0)
        dropped = weights if factors is None else weights * factors
        out = _product(dropped, v, shuffle) / total
        lse = total.log() + shift
        ctx.save_for_backward(q, scaled, v, bias, key_mask, factors, out, lse)
        ctx.scale, ctx.shuffle = scale, shuffle
        return out, lse.masked_fill(no_key, -torch.inf).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        q, scaled, v, bias, key_mask, factors, out, lse = ctx.saved_tensors
        shuffle = ctx.shuffle
        # Computed anew, in another order: one score has two roundings, and lse belongs to the first.
        scores, no_key = _masked(_product(q, scaled.mT, shuffle), bias, key_mask)
        weights = (scores - lse).exp().masked_fill(no_key, 0.0)
        delta = _product(out.unsqueeze(-2), dout.unsqueeze(-1), shuffle).squeeze(-1)  # (B, H, N_q, 1)
        dweights = _product(dout, v.mT, shuffle)
        dropped = weights
        if factors is not None:
            dropped, dweights = weights * factors, dweights * factors
        dscores = weights * (dweights - (delta - dlse.unsqueeze(-1)))
        dq = _product(dscores, scaled, shuffle)
        dk = _product(dscores.mT, q, shuffle) * ctx.scale
        dv = _product(dropped.mT, dout, shuffle)
        dbias = None if bias is None else dscores.sum_to_size(bias.shape)
        return dq, dk, dv, dbias, None, None, None, None


def _product(left: Tensor, right: Tensor, shuffle: torch.Generator) -> Tensor:
    """Return left @ right, each element a sum of one term after the other, rounded to the dtype of `left`.

    Sums are in float32, for float64 in float64.
    """
    factors = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in (left, right)]
    if left.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        # TF32 keeps 10 of 23 mantissa bits; some hardware cuts the rest off, so that rounding would be too strict.
        factors = [(x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32) for x in factors]
    total = torch.zeros((), device=left.device)
    for i in torch.randperm(left.shape[-1], generator=shuffle).tolist():
        total = total + factors[0][..., :, i, None] * factors[1][..., None, i, :]
    return total.to(left.dtype)


def _factors(kept: Tensor, dropped_share: float, like: Tensor) -> Tensor:
    """Return what dropout multiplies the weights with: 0, or what keeps their mean."""
    return kept.to(like.dtype) / (1 - dropped_share)


def _masked(scores: Tensor, bias: Tensor | None, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the scores with bias and mask, and which rows may look at no key, (B, H, N_q, 1); those are zeros."""
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    no_key = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(no_key, 0.0), no_key
