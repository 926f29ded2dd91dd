"""Correct first: a candidate is held against float64 at the very shape, strides and dtype that are then timed.

Attention is independent in each head, so a few heads, the first and the last among them, stand for all; the rest must
be finite, in memory that held NaN before. The budget is that of `vitzoo.testing`. Its own yardstick sums one term after
the other; at long sequences of 16-bit numbers, where rounding each tensor is what counts, sums go 16 terms at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.peers import OURS, Peer
from benchmarks.shapes import Shape
from vitzoo.testing import assert_within_budget, exact_attention, low_precision_attention
from vitzoo.testing.budget import orders_for

Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
TERMS = 16
LONG = 300
# Sums of long sequences in so many orders: they have elements enough, few of them right by luck, and they take long.
ORDERS_IF_LONG = 2


class Judge:
    """What the truth and the yardsticks say of one shape's inputs, computed once for all candidates.

    Args:
        qkv: (B, N, 3, H, D).
        dout: gradient of the output, (B, N, H * D).
        shape: B, N, H and D.
    """

    def __init__(self, qkv: Tensor, dout: Tensor, shape: Shape) -> None:
        self._qkv, self._dout, self._heads = qkv, dout, sampled_heads(shape)
        dout_heads = _pick(dout.unflatten(-1, (shape.heads, shape.head_dim)), self._heads)
        inputs = [_pick(x, self._heads) for x in qkv.unbind(2)]
        self._truth = _results(exact_attention, [x.double() for x in inputs], dout_heads.double())
        self._rounded = [_results(function, inputs, dout_heads) for function in yardsticks(shape, qkv.dtype)]

    def check(self, peer: Peer) -> None:
        """Assert that a peer's output and gradients, and our log-sum-exp, are finite and within the budget.

        Raises:
            AssertionError: a result is not; the message names it.
        """
        qkv, dout = self._qkv, self._dout
        _poison(qkv)
        leaves = [x.detach().requires_grad_() for x in qkv.unbind(2)]
        out = peer.attend(*leaves)
        gradients = torch.autograd.grad(out.flatten(2), leaves, dout)
        leaf = qkv.detach().requires_grad_()
        packed = torch.autograd.grad(peer.attend_packed(leaf).flatten(2), leaf, dout)[0]
        actual = {"out": out.detach(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}
        actual |= {f"packed {name}": x for name, x in zip(("dq", "dk", "dv"), packed.unbind(2), strict=True)}
        for name, x in actual.items():
            missing = int((~x.isfinite()).sum())
            assert missing == 0, f"{name}: {missing} of {x.numel()} elements are not finite"
            self._hold(name, name.removeprefix("packed "), _pick(x, self._heads))
        if peer.name == OURS:
            with torch.no_grad():
                _, lse = peer.attend(*qkv.unbind(2), return_lse=True)
            chosen = torch.stack([lse[b, h : h + 1] for b, h in self._heads])
            self._hold("lse", "lse", chosen, dtype=torch.float32)

    def _hold(self, name: str, key: str, actual: Tensor, dtype: torch.dtype | None = None) -> None:
        low_precision = [results[key] for results in self._rounded]
        assert_within_budget(actual, self._truth[key], low_precision, name=name, dtype=dtype)


def sampled_heads(shape: Shape) -> list[tuple[int, int]]:
    """Return the first, a middle and the last (image, head)."""
    total = shape.batch * shape.heads
    return [divmod(i, shape.heads) for i in sorted({0, total // 2, total - 1})]


def yardsticks(shape: Shape, dtype: torch.dtype) -> list[Function]:
    """Return the low-precision computations that the budget is derived from."""
    tokens, rows = shape.tokens, shape.tokens * len(sampled_heads(shape))
    if tokens > LONG and dtype.itemsize == 2:
        return [rounded_attention]
    orders = ORDERS_IF_LONG if tokens > LONG else orders_for(rows, dtype)
    return [partial(low_precision_attention, order=i) for i in range(orders)]


def rounded_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return out, (B, N, H, D), and lse, (B, H, N), with each tensor and gradient rounded to the dtype of `q`."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = _product(q, (k * q.shape[-1] ** -0.5).mT)
    return _product(scores.softmax(-1), v).transpose(1, 2), scores.logsumexp(-1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    total = torch.zeros((), device=left.device)
    for a, b in zip(left.split(TERMS, dim=-1), right.split(TERMS, dim=-2), strict=True):
        total = total + a.float() @ b.float()
    return total.to(left.dtype)


def _results(function: Function, inputs: list[Tensor], dout: Tensor) -> dict[str, Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, lse = function(*leaves)
    gradients = torch.autograd.grad(out, leaves, dout)
    return {"out": out.detach(), "lse": lse.detach(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}


def _pick(x: Tensor, heads: list[tuple[int, int]]) -> Tensor:
    """Return chosen heads of (B, N, H, D) as images of one head, (heads, N, 1, D)."""
    return torch.stack([x[b, :, h : h + 1] for b, h in heads])


def _poison(qkv: Tensor) -> None:
    # Freed at once, so that the outputs' memory holds NaN and an element that nobody writes is seen.
    blocks = [torch.full_like(qkv, torch.nan), *(torch.full_like(qkv[:, :, 0], torch.nan) for _ in range(4))]
    del blocks
