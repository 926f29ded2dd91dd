"""The attention function that people call: it checks its arguments once and hands them to the operator."""

from typing import Literal, overload

import torch
from torch import Tensor

from vitzoo_kernels.dense import ops
from vitzoo_kernels.dense.supported import DTYPES, HEAD_DIMS


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, return_lse: Literal[False] = False
) -> Tensor: ...


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, return_lse: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, return_lse: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax(q k^T * scale) v without holding the (N_q, N_k) weights; differentiable once.

    Inputs are read where they lie, with any strides whose last is 1: slices of a packed (B, N, 3, H, D) tensor need no
    copy. Sums are in float32. Two runs give the same bits, forward and backward. Under autocast, floating inputs are
    cast to the autocast dtype first, as `F.scaled_dot_product_attention` does. Products of float32 inputs are float32
    unless `torch.set_float32_matmul_precision` allows less: then they are TF32.

    Args:
        q: queries, (B, N_q, H, D), float16, bfloat16 or float32, on a CUDA device of capability 8.0 or above; on the
            CPU float16 or float32, under Triton's interpreter.
        k: keys, (B, N_k, H, D), dtype and device of `q`.
        v: values, (B, N_k, H, D), dtype and device of `q`.
        scale: factor on the scores; D ** -0.5 when None.
        return_lse: also return the logarithm of each softmax denominator. It has a gradient too.

    Returns:
        out, (B, N_q, H, D), contiguous, dtype of `q` (under autocast, the autocast dtype); with `return_lse` also lse,
        float32, natural logarithm, (B, H, N_q).

    Raises:
        TypeError: an input is no tensor, or `scale` is no number.
        ValueError: shapes, dtypes, devices or strides are not those above, D is not a multiple of 8 from 16 to 128,
            a size is 0, or the device cannot run the kernel.

    Source: FlashAttention-2, arXiv 2307.08691.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; attention takes tensors of shape (B, N, H, D)")
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; attention takes (B, N, H, D): "
                "split the channels with unflatten(-1, (H, D))"
            )
    if not (scale is None or isinstance(scale, int | float)):
        raise TypeError(f"scale is a {type(scale).__name__}; attention takes a Python number, or None for D ** -0.5")
    device = q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        q, k, v = (x.to(dtype) if _named(x.dtype) in DTYPES else x for x in (q, k, v))
    _check_layout(q, k, v)

    head_dim = q.shape[-1]
    out, lse = ops.attention_forward(q, k, v, head_dim**-0.5 if scale is None else scale)
    return (out, lse) if return_lse else out


def _check_layout(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"shapes disagree: {shapes}; attention takes q (B, N_q, H, D) and k, v (B, N_k, H, D): "
            "expand k and v when queries share them"
        )
    if q.numel() == 0 or k.numel() == 0:
        raise ValueError(f"a size is 0: {shapes}; attention needs at least one image, query, key and head")
    if q.shape[-1] not in HEAD_DIMS:
        raise ValueError(
            f"head dim {q.shape[-1]} (supported: multiples of 8 from {HEAD_DIMS[0]} to {HEAD_DIMS[-1]}); "
            "choose another number of heads, or use attention_reference"
        )
    if not q.dtype == k.dtype == v.dtype or _named(q.dtype) not in DTYPES:
        raise ValueError(
            f"dtypes q {_named(q.dtype)}, k {_named(k.dtype)}, v {_named(v.dtype)} "
            f"(supported: one of {', '.join(DTYPES)} for all three); cast them, or use attention_reference"
        )
    if not q.device == k.device == v.device:
        raise ValueError(f"devices disagree: q {q.device}, k {k.device}, v {v.device}; move them to one device")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.stride(-1) != 1:
            raise ValueError(
                f"the last dimension of {name} has stride {tensor.stride(-1)} (supported: 1, with any strides before "
                f"it); call {name}.contiguous() first"
            )


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
