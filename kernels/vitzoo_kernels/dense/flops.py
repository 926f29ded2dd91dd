"""How many operations attention takes, for torch.utils.flop_counter: what is computed once, whatever the kernels do.

A multiplication and an addition are two operations. Exponentials are not counted, nor what a backward recomputes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from vitzoo_kernels.dense.extras import Extras

# Scores and out; scores, dout v^T, dv, dk and dq.
FORWARD, BACKWARD = 2, 5


def register() -> None:
    """Tell torch's counter of the four operators."""
    from torch.utils.flop_counter import register_flop_formula

    for name, formula in (
        ("attention_forward", _forward),
        ("attention_backward", _backward),
        ("packed_attention_forward", _packed_forward),
        ("packed_attention_backward", _packed_backward),
    ):
        register_flop_formula(getattr(torch.ops.vitzoo, name), get_raw=True)(formula)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, *extras: Any, out_val: Any = None) -> int:
    return FORWARD * _product(q.shape, k.shape[1], extras)


def _backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
    out_val: Any = None,
) -> int:
    return BACKWARD * _product(q.shape, k.shape[1], extras)


def _packed_forward(qkv: Tensor, scale: float, *extras: Any, out_val: Any = None) -> int:
    return FORWARD * _product(qkv.select(2, 0).shape, qkv.shape[1], extras)


def _packed_backward(
    dout: Tensor,
    dlse: Tensor | None,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
    out_val: Any = None,
) -> int:
    return BACKWARD * _product(dout.shape, qkv.shape[1], extras)


def _product(q_shape: Sequence[int], num_keys: int, extras: tuple[Any, ...]) -> int:
    """Return the operations of one product of all queries with the keys that they may look at, masks aside."""
    batch, num_queries, num_heads, head_dim = q_shape
    packed = Extras(*extras)
    pairs = batch * num_queries * num_keys
    if packed.cu_q is not None and packed.cu_k is not None:
        lengths = zip(_lengths(packed.cu_q, packed.max_q), _lengths(packed.cu_k, packed.max_k), strict=True)
        pairs = sum(queries * keys for queries, keys in lengths)
    return 2 * num_heads * pairs * head_dim


def _lengths(offsets: Tensor, longest: int) -> list[int]:
    """Return the length of each sequence; where there are no numbers, the longest, as torch's own formulae do."""
    if offsets.is_meta or is_fake(offsets):
        return [longest] * (offsets.numel() - 1)
    lengths: list[int] = offsets.diff().tolist()
    return lengths
