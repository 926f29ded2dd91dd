"""The attention functions that people call: they check their arguments once and hand them to the operators."""

from collections.abc import Callable
from typing import Any, Literal, NoReturn, cast, overload

import torch
from torch import Tensor

from vitzoo_kernels.dense import ops
from vitzoo_kernels.dense.layouts import check_layouts, named
from vitzoo_kernels.dense.supported import DTYPES


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute softmax(q k^T * scale + bias) v without holding the (N_q, N_k) weights; differentiable once.

    Inputs are read where they lie, with any strides whose last is 1: slices of a packed (B, N, 3, H, D) tensor need no
    copy. Sums are in float32. Two runs give the same bits, forward and backward. Under autocast, q, k and v are cast
    to the autocast dtype first, as in `F.scaled_dot_product_attention`; a bias keeps its own. Products of float32
    inputs are float32 unless `torch.set_float32_matmul_precision` allows less: then they are TF32.

    What stands in a masked key, NaN included, never matters. A query that may look at no key, because of `key_mask`,
    because its bias is -inf everywhere or because its sequence has no keys, gets zeros, an lse of -inf and zero
    gradients.

    Args:
        q: queries, (B, N_q, H, D), float16, bfloat16 or float32, on a CUDA device of capability 8.0 or above; on the
            CPU float16 or float32, under Triton's interpreter.
        k: keys, (B, N_k, H, D), dtype and device of `q`.
        v: values, (B, N_k, H, D), dtype and device of `q`.
        bias: floating, added to the scaled scores, broadcast to (B, H, N_q, N_k); it has a gradient.
        key_mask: bool, (B, N_k), True where attention may look.
        scale: factor on the scores; D ** -0.5 when None.
        dropout_p: share of the weights set to zero; the others grow by 1 / (1 - p).
        dropout_seed: int64, (2,), on the device of `q`: seed and offset of the dropout, which decide it wholly
            (`dropout_mask`); of the offset the lower 32 bits count. None: drawn from torch's generator.
        cu_seqlens_q: int32, (sequences + 1,), on the device of `q`: where each sequence begins in q, which then is
            (1, tokens, H, D), and where the last ends. The first is 0. Tokens after the last get zeros, an lse of -inf
            and zero gradients. The CPU never reads the offsets: what they say of tokens that do not exist is ignored.
        cu_seqlens_k: the same of k and v.
        max_seqlen_q: length of the longest sequence of queries, or more. It cannot be checked without waiting for the
            GPU: with less, results are NaN past it.
        max_seqlen_k: the same of the keys; with less, dk and dv are NaN past it.
        return_lse: also return the logarithm of each softmax denominator, before dropout. It has a gradient too.

    Returns:
        out, (B, N_q, H, D), contiguous, dtype of `q` (under autocast, the autocast dtype); with `return_lse` also lse,
        float32, natural logarithm, (B, H, N_q).

    Raises:
        TypeError: an input is no tensor, or a number is none.
        ValueError: shapes, dtypes, devices or strides are not those above, D is not a multiple of 8 from 16 to 128,
            a size is 0, packed sequences come with a bias or a key mask, or the device cannot run the kernel.

    Source: FlashAttention-2, arXiv 2307.08691.
    """
    are_tensors = isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)
    if not (are_tensors and q.ndim == k.ndim == v.ndim == 4):
        _refuse(4, "(B, N, H, D): split the channels with unflatten(-1, (H, D))", q=q, k=k, v=v)
    if torch._C._is_any_autocast_enabled():
        q, k, v = _autocast(q, k, v)
    if scale is not None:
        _check_scale(scale)
    plain = bias is None and key_mask is None and not dropout_p and dropout_seed is None
    apart = cu_seqlens_q is None and cu_seqlens_k is None and max_seqlen_q is None and max_seqlen_k is None
    beside = not (plain and apart)
    eager = ops.is_eager(q) and ops.are_plain(k, v)
    if eager and beside:
        eager = ops.are_plain(bias, key_mask, dropout_seed, cu_seqlens_q, cu_seqlens_k)
    if not eager or dropout_p:
        # Eager calls are checked where they are planned: once for each kind. A refused one draws no random numbers.
        check_layouts(q, k, v)
    extras: tuple[Any, ...] = ()
    if beside:
        cu_seqlens, max_seqlens = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
        try:
            extras = _extras(q, k, bias, key_mask, dropout_p, dropout_seed, cu_seqlens, max_seqlens)
        except ValueError:
            # A bias or a mask that fits k and not q is no fault of its own.
            check_layouts(q, k, v)
            raise
    out, lse = ops.attend((q, k, v), scale, extras, eager=eager, with_lse=return_lse)
    return (out, lse) if return_lse else out


def attention_qkvpacked(
    qkv: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute `attention` of q, k and v that one projection made, with one gradient: nothing is concatenated.

    Args:
        qkv: (B, N, 3, H, D), any strides whose last is 1.
        bias: as for `attention`.
        key_mask: as for `attention`.
        scale: as for `attention`.
        dropout_p: as for `attention`.
        dropout_seed: as for `attention`.
        return_lse: as for `attention`.

    Returns:
        What `attention` returns, with N_q = N_k = N.

    Raises:
        TypeError: as for `attention`.
        ValueError: as for `attention`.
    """
    if not (isinstance(qkv, Tensor) and qkv.ndim == 5):
        _refuse(5, "(B, N, 3, H, D): split the channels with unflatten(-1, (3, H, D))", qkv=qkv)
    if qkv.shape[2] != 3:
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; attention takes (B, N, 3, H, D)")
    if torch._C._is_any_autocast_enabled():
        (qkv,) = _autocast(qkv)
    if scale is not None:
        _check_scale(scale)
    beside = not (bias is None and key_mask is None and not dropout_p and dropout_seed is None)
    eager = ops.is_eager(qkv) and (not beside or ops.are_plain(bias, key_mask, dropout_seed))
    if not eager or dropout_p:
        check_layouts(*qkv.unbind(2))
    extras: tuple[Any, ...] = ()
    if beside:
        tokens = qkv.select(2, 0)
        extras = _extras(tokens, tokens, bias, key_mask, dropout_p, dropout_seed, (None, None), (None, None))
    out, lse = ops.attend((qkv,), scale, extras, eager=eager, with_lse=return_lse)
    return (out, lse) if return_lse else out


# Whoever holds the function finds here what to call with one tensor.
attention.packed = attention_qkvpacked  # type: ignore[attr-defined]


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    max_seqlen_q: int,
    max_seqlen_k: int,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute `attention` within each of many sequences that lie one after the other, without padding.

    Args:
        q: queries of all sequences, (T_q, H, D).
        k: keys of all sequences, (T_k, H, D).
        v: values of all sequences, (T_k, H, D).
        cu_seqlens_q: as for `attention`.
        cu_seqlens_k: as for `attention`.
        max_seqlen_q: as for `attention`.
        max_seqlen_k: as for `attention`.
        scale: as for `attention`.
        dropout_p: as for `attention`.
        dropout_seed: as for `attention`.
        return_lse: as for `attention`.

    Returns:
        out, (T_q, H, D), contiguous; with `return_lse` also lse, float32, (H, T_q).

    Raises:
        TypeError: as for `attention`.
        ValueError: as for `attention`.
    """
    if not all(isinstance(x, Tensor) and x.ndim == 3 for x in (q, k, v)):
        _refuse(3, "(T, H, D), the tokens of all sequences one after the other", q=q, k=k, v=v)
    # Its overloads are for results of a known kind.
    call: Callable[..., Any] = attention
    result = call(
        q[None],
        k[None],
        v[None],
        scale=scale,
        dropout_p=dropout_p,
        dropout_seed=dropout_seed,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        return_lse=return_lse,
    )
    if return_lse:
        out, lse = result
        return out[0], lse[0]
    return cast(Tensor, result[0])


def dropout_mask(dropout_seed: Tensor, dropout_p: float, shape: tuple[int, int, int, int]) -> Tensor:
    """Return which weights `attention` keeps.

    Args:
        dropout_seed: int64, (2,), as for `attention`.
        dropout_p: share of the weights set to zero.
        shape: (B, H, N_q, N_k); with packed sequences B is their number, and N_q and N_k may be the longest.

    Returns:
        bool, (B, H, N_q, N_k), True where a weight is kept. It does not depend on the tiles of the kernels.

    Raises:
        ValueError: the seed or the share is not as described.
    """
    from vitzoo_kernels.dense import launch

    _check_tensors(dropout_seed=dropout_seed)
    _check_dropout(dropout_p, dropout_seed, dropout_seed.device)
    return launch.dropout_mask(dropout_seed, dropout_p, shape)


def _refuse(ndim: int, wanted: str, **tensors: Any) -> NoReturn:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} is a {type(tensor).__name__}; attention takes tensors of shape {wanted.split(':')[0]}"
            )
        if tensor.ndim != ndim:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; attention takes {wanted}")
    raise AssertionError("nothing is wrong with these tensors")


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device) if device in ("cuda", "cpu") else _is_autocast(device):
        dtype = torch.get_autocast_dtype(device)
        return tuple(x.to(dtype) if named(x.dtype) in DTYPES else x for x in tensors)
    return tensors


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _check_scale(scale: Any) -> None:
    if not isinstance(scale, int | float):
        raise TypeError(f"scale is a {type(scale).__name__}; attention takes a Python number, or None for D ** -0.5")


def _extras(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    dropout_p: float,
    dropout_seed: Tensor | None,
    cu_seqlens: tuple[Tensor | None, Tensor | None],
    max_seqlens: tuple[int | None, int | None],
) -> tuple[Any, ...]:
    """Check what comes beside q, k and v, and return the fields of `Extras`."""
    _check_tensors(bias=bias, key_mask=key_mask, dropout_seed=dropout_seed)
    _check_tensors(cu_seqlens_q=cu_seqlens[0], cu_seqlens_k=cu_seqlens[1])
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if bias is not None:
        sizes = tuple(zip(reversed(bias.shape), reversed(scores), strict=False))
        if named(bias.dtype) not in DTYPES or bias.ndim > 4 or any(b not in (1, s) for b, s in sizes):
            raise ValueError(
                f"bias is {tuple(bias.shape)} of {named(bias.dtype)}; attention adds a tensor of {', '.join(DTYPES)} "
                f"that broadcasts to (B, H, N_q, N_k) = {scores}; for a bool mask of keys pass key_mask"
            )
    if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != (scores[0], scores[3])):
        raise ValueError(
            f"key_mask is {tuple(key_mask.shape)} of {named(key_mask.dtype)}; attention takes torch.bool of "
            f"(B, N_k) = {(scores[0], scores[3])}, True where attention may look"
        )
    _check_dropout(dropout_p, dropout_seed, q.device)
    if cu_seqlens != (None, None) or max_seqlens != (None, None):
        _check_sequences(q, bias is None and key_mask is None, cu_seqlens, max_seqlens)
    for name, tensor in (("bias", bias), ("key_mask", key_mask)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device} and q on {q.device}; move them to one device")
    if not dropout_p:
        # Nobody uses it, and whoever changes it need not stop the backward.
        dropout_seed = None
    elif dropout_seed is None:
        # Two draws of 62 bits, of a call that nothing above refused; torch.compile draws from its own generator.
        dropout_seed = torch.randint(2**62, (2,), dtype=torch.int64, device=q.device)
    lengths = tuple(0 if length is None else length for length in max_seqlens)
    return bias, key_mask, float(dropout_p), dropout_seed, *cu_seqlens, *lengths


def _check_tensors(**arguments: Any) -> None:
    for name, x in arguments.items():
        if not (x is None or isinstance(x, Tensor)):
            raise TypeError(f"{name} is a {type(x).__name__}; attention takes a tensor")


def _check_dropout(dropout_p: float, dropout_seed: Tensor | None, device: torch.device) -> None:
    if not isinstance(dropout_p, int | float):
        raise TypeError(f"dropout_p is a {type(dropout_p).__name__}; attention takes a Python number from 0 to 1")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p is {dropout_p}; it is a share from 0 to 1")
    if dropout_seed is None:
        return
    if dropout_seed.dtype != torch.int64 or dropout_seed.shape != (2,) or dropout_seed.device != device:
        raise ValueError(
            f"dropout_seed is {tuple(dropout_seed.shape)} of {named(dropout_seed.dtype)} on {dropout_seed.device}; "
            f"attention takes torch.int64 of (2,) on {device}: seed and offset"
        )


def _check_sequences(
    q: Tensor,
    plain: bool,
    cu_seqlens: tuple[Tensor | None, Tensor | None],
    max_seqlens: tuple[int | None, int | None],
) -> None:
    if None in cu_seqlens or None in max_seqlens:
        raise ValueError("packed sequences need all of cu_seqlens_q, cu_seqlens_k, max_seqlen_q and max_seqlen_k")
    if not plain:
        raise ValueError("packed sequences have no bias and no key_mask; leave padding out of them instead")
    if q.shape[0] != 1:
        raise ValueError(f"q has shape {tuple(q.shape)}; packed sequences lie one after the other in (1, N, H, D)")
    for name, offsets in zip(("cu_seqlens_q", "cu_seqlens_k"), cu_seqlens, strict=True):
        assert offsets is not None
        shape = cu_seqlens[0].shape  # type: ignore[union-attr]
        if offsets.dtype != torch.int32 or offsets.ndim != 1 or offsets.shape != shape or offsets.numel() < 2:
            raise ValueError(
                f"{name} is {tuple(offsets.shape)} of {named(offsets.dtype)}; attention takes torch.int32 of "
                "(sequences + 1,), the same number for queries and keys"
            )
        if offsets.device != q.device:
            raise ValueError(f"{name} is on {offsets.device} and q on {q.device}; move them to one device")
    for name, length in zip(("max_seqlen_q", "max_seqlen_k"), max_seqlens, strict=True):
        if isinstance(length, bool) or not isinstance(length, int | torch.SymInt) or length < 1:
            raise ValueError(f"{name} is {length!r}; it is the length of the longest sequence, at least 1")
