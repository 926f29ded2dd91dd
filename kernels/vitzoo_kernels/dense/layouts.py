"""Which shapes, strides, dtypes and devices the kernels take."""

import torch
from torch import Tensor

from vitzoo_kernels.dense.supported import DTYPES, HEAD_DIMS


def check_layouts(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless the kernels take tensors like these, of four dimensions each."""
    images, queries, *heads = q.shape
    if k.shape != v.shape or [images, *heads] != [k.shape[0], *k.shape[2:]]:
        raise ValueError(
            f"shapes disagree: {_shapes(q, k, v)}; attention takes q (B, N_q, H, D) and k, v (B, N_k, H, D): "
            "expand k and v when queries share them"
        )
    if 0 in (images, queries, k.shape[1], *heads):
        raise ValueError(f"a size is 0: {_shapes(q, k, v)}; attention needs at least one image, query, key and head")
    if heads[1] not in HEAD_DIMS:
        raise ValueError(
            f"head dim {heads[1]} (supported: multiples of 8 from {HEAD_DIMS[0]} to {HEAD_DIMS[-1]}); "
            "choose another number of heads, or use attention_reference"
        )
    if not q.dtype == k.dtype == v.dtype or named(q.dtype) not in DTYPES:
        raise ValueError(
            f"dtypes q {named(q.dtype)}, k {named(k.dtype)}, v {named(v.dtype)} "
            f"(supported: one of {', '.join(DTYPES)} for all three); cast them, or use attention_reference"
        )
    if not q.device == k.device == v.device:
        raise ValueError(f"devices disagree: q {q.device}, k {k.device}, v {v.device}; move them to one device")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.stride(-1) != 1:
            raise ValueError(
                f"the last dimension of {name} has stride {x.stride(-1)} (supported: 1, with any strides before "
                f"it); call {name}.contiguous() first"
            )


def scale_of(scale: float | None, head_dim: int) -> float:
    """Return the factor on the scores, which is D ** -0.5 unless it is given."""
    return head_dim**-0.5 if scale is None else float(scale)


def _shapes(q: Tensor, k: Tensor, v: Tensor) -> str:
    return f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"


def named(dtype: torch.dtype) -> str:
    """Return 'float16' for torch.float16."""
    return str(dtype).removeprefix("torch.")
