"""vitzoo's kernel as the FlashAttention of torch's own `scaled_dot_product_attention`.

Limits that are torch's: SDPA calls its FlashAttention for float16 and bfloat16 and without a mask alone, and on Hopper
and Blackwell it prefers cuDNN unless `torch.nn.attention.sdpa_kernel` says otherwise. Limits of the kernel: no causal
attention, no keys shared by several heads, head dims from 16 to 128. Nested tensors and `varlen_attn` stay on torch's
own kernel.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.library import Library

from vitzoo.compat.switch import tokens_first
from vitzoo.errors import InputError, MissingPackageError

NAME = "vitzoo"


def register() -> str:
    """Make the kernel known to torch, which changes nothing until somebody activates it.

    Activating holds for the whole process, until `torch.nn.attention.restore_flash_attention_impl()`.

    Returns:
        The name for `torch.nn.attention.activate_flash_attention_impl`.

    Raises:
        MissingPackageError: this torch has no place for other implementations, or there is no Triton.
    """
    try:
        import triton  # noqa: F401 - asked here, so that activating cannot fail half-way
        from torch.nn.attention import register_flash_attention_impl
    except ImportError as error:
        raise MissingPackageError(
            "vitzoo's kernel in torch's SDPA needs triton, and a torch that has "
            f"torch.nn.attention.register_flash_attention_impl: {error}"
        ) from error
    register_flash_attention_impl(NAME, register_fn=activate)
    return NAME


class Activation:
    """What torch keeps while the kernel is active.

    Args:
        library: the registrations, which end with it.
    """

    def __init__(self, library: Library) -> None:
        self._library: Library | None = library

    def remove(self) -> None:
        """Give the operators back to torch's own kernels."""
        self._library = None


def activate(device: str = "CUDA") -> Activation:
    """Put the kernel in the place of torch's FlashAttention; `activate_flash_attention_impl` calls it.

    Args:
        device: torch's dispatch key.

    Returns:
        What ends it.
    """
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    operator = "_scaled_dot_product_flash_attention"
    with warnings.catch_warnings():
        # Taking the place of torch's kernel is what was asked for.
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        for name, implementation in ((operator, _forward), (f"{operator}_backward", _backward)):
            library.impl(name, implementation, device, allow_override=True)  # type: ignore[no-untyped-call]
    return Activation(library)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int, int, Tensor, Tensor, Tensor]:
    """Stand for aten::_scaled_dot_product_flash_attention: (B, H, N, D) in and out."""
    import vitzoo_kernels

    _refuse(is_causal, return_debug_mask)
    seed = torch.randint(2**62, (2,), dtype=torch.int64, device=query.device) if dropout_p else None
    q, k, v = map(tokens_first, (query, key, value))
    # Autograd is torch's, for this operator and its backward.
    with torch.no_grad():
        out, lse = vitzoo_kernels.attention(
            q, k, v, scale=scale, dropout_p=dropout_p, dropout_seed=seed, return_lse=True
        )
    state = query.new_empty(2, dtype=torch.int64) if seed is None else seed
    return (
        _laid_out_as(query, out.transpose(1, 2)),
        lse,
        None,
        None,
        query.shape[2],
        key.shape[2],
        state.view(torch.uint64),
        query.new_empty((), dtype=torch.uint64),
        query.new_empty(0),
    )


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor | None,
    cum_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    philox_seed: Tensor,
    philox_offset: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """Stand for aten::_scaled_dot_product_flash_attention_backward."""
    _refuse(is_causal, False)
    extras = (None, None, dropout_p, philox_seed.view(torch.int64)) if dropout_p else ()
    dout, q, k, v = map(tokens_first, (grad_out, query, key, value))
    # The kernels read the output as they wrote it.
    o = out.transpose(1, 2).contiguous()
    *grads, _ = torch.ops.vitzoo.attention_backward(
        dout, None, q, k, v, o, logsumexp, query.shape[-1] ** -0.5 if scale is None else scale, False, *extras
    )
    return tuple(
        _laid_out_as(like, grad.transpose(1, 2)) for like, grad in zip((query, key, value), grads, strict=True)
    )


def _refuse(is_causal: bool, return_debug_mask: bool) -> None:
    if is_causal or return_debug_mask:
        what = "is_causal=True" if is_causal else "return_debug_mask=True"
        raise InputError(
            f"{what} was asked of vitzoo's kernel in torch's SDPA, which has none; leave it out, or go back to torch's "
            "kernel with torch.nn.attention.restore_flash_attention_impl()"
        )


def _laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    """Return x in the layout that torch's fake of the operator promises to compiled code."""
    empty = torch.empty_like(like)
    return x if x.stride() == empty.stride() else empty.copy_(x)
