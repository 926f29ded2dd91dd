"""Other libraries' code on a backend of vitzoo: their calls of `scaled_dot_product_attention`, made elsewhere."""

from __future__ import annotations

import dis
from collections.abc import Callable
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.attention.select import Attend
from vitzoo.errors import InputError


def switched(function: Callable[..., Any], attend: Attend) -> Callable[..., Any]:
    """Return a function with the same code, in which `scaled_dot_product_attention` is a backend of vitzoo.

    Nothing of torch or of the library changes, and a call costs nothing more; torch.compile and torch.export trace
    through it.

    Args:
        function: a Python function that calls SDPA by any of its names: `F.`, `nn.functional.`, `torch.nn.functional.`,
            or a name of its own that its module imported.
        attend: runs attention.

    Raises:
        InputError: the function does not call SDPA itself, or by a name that its module does not hold.
    """
    if not isinstance(function, FunctionType) or not _calls_sdpa(function):
        name = getattr(function, "__qualname__", repr(function))
        raise InputError(
            f"{name} does not call scaled_dot_product_attention itself, by a name that its module imported, "
            "so it cannot be run elsewhere"
        )
    attention = partial(attend_as_sdpa, attend)
    functional = _copy(F, scaled_dot_product_attention=attention)
    network = _copy(nn, functional=functional)
    instead = {
        id(F.scaled_dot_product_attention): attention,
        id(F): functional,
        id(nn): network,
        id(torch): _copy(torch, nn=network),
    }
    names = {name: instead.get(id(value), value) for name, value in function.__globals__.items()}
    # By this name torch.compile would look for the globals in the library's module.
    names.pop("__name__")
    found = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def _calls_sdpa(function: FunctionType) -> bool:
    """Return whether a function asks for SDPA, and always through the globals of its module."""
    found: Any = None
    reached = False
    for instruction in dis.get_instructions(function):
        if instruction.opname == "EXTENDED_ARG":
            continue
        owner, found = found, None
        if instruction.opname == "LOAD_GLOBAL":
            found = function.__globals__.get(instruction.argval)
        elif isinstance(owner, ModuleType) and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found = getattr(owner, instruction.argval, None)
        elif instruction.argval == "scaled_dot_product_attention":
            return False
        reached = reached or found is F.scaled_dot_product_attention
    return reached


def _copy(module: ModuleType, **changed: Any) -> ModuleType:
    copy = ModuleType(module.__name__)
    copy.__dict__.update(module.__dict__, **changed)
    return copy


def attend_as_sdpa(
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Run attention with the arguments of `F.scaled_dot_product_attention` on a backend of vitzoo.

    Args:
        attend: runs attention.
        query: (..., H, N_q, D), with or without images before the heads; the leading dimensions of the three broadcast.
        key: (..., H, N_k, D), or with `enable_gqa` a number of heads that divides H.
        value: (..., H, N_k, D_v); of another width than the keys, the narrower ones are padded with zeros.
        attn_mask: broadcasts to (..., H, N_q, N_k): bool, True where attention may look, or added to the scores.
            A bool mask that is the same for all heads and queries becomes a key mask; any other a bias of 0 and -inf.
        dropout_p: share of weights dropped.
        is_causal: key j is seen by query i if j <= i; as a bias of (N_q, N_k), for no backend knows of it.
        scale: factor on the scores; D ** -0.5 when None.
        enable_gqa: each key serves H / H_k heads that follow each other.

    Returns:
        (..., H, N_q, D_v).

    Raises:
        InputError: a mask and `is_causal` come together, the inputs or the mask have too few dimensions, or H is no
            multiple of the number of heads that the keys have.
        BackendUnsupported: no allowed backend can run the call.
    """
    if query.ndim < 3:
        raise InputError(f"query has shape {tuple(query.shape)}; vitzoo's attention takes (..., heads, N, head_dim)")
    if query.ndim == 3:
        # The heads of one image, or of all images in one dimension as in timm's SAM.
        inputs = query[None], key[None], value[None]
        return attend_as_sdpa(attend, *inputs, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]
    if enable_gqa:
        key, value = (_for_all_heads(x, query.shape[-3]) for x in (key, value))
    leading = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))  # type: ignore[no-untyped-call]
    width, width_out = query.shape[-1], value.shape[-1]
    if width != width_out:
        scale = width**-0.5 if scale is None else scale
        query, key, value = (F.pad(x, (0, max(width, width_out) - x.shape[-1])) for x in (query, key, value))
    q, k, v = (
        tokens_first(x if x.shape[:-2] == leading else x.expand(*leading, *x.shape[-2:])) for x in (query, key, value)
    )
    bias, key_mask = _split_mask(attn_mask, q, k, leading)
    if is_causal:
        if attn_mask is not None:
            raise InputError("attn_mask and is_causal=True were both given; put the causal part into the mask")
        bias = q.new_full((q.shape[1], k.shape[1]), float("-inf")).triu_(1)
    out = attend(q, k, v, bias=bias, key_mask=key_mask, scale=scale, dropout_p=dropout_p)
    out = out[..., :width_out].transpose(1, 2)
    return out if len(leading) == 2 else out.reshape(*leading[:-1], *out.shape[1:])


def _for_all_heads(x: Tensor, num_heads: int) -> Tensor:
    """Return keys or values of fewer heads, each as often as it serves a head of the queries."""
    groups, rest = divmod(num_heads, x.shape[-3])
    if rest:
        raise InputError(
            f"enable_gqa=True: {num_heads} heads of queries are no multiple of {x.shape[-3]} of keys or values"
        )
    return x.repeat_interleave(groups, dim=-3)


def tokens_first(x: Tensor) -> Tensor:
    """Return (..., H, N, D) as (B, N, H, D), with D lying together as kernels read it."""
    x = (x if x.ndim == 4 else x.flatten(0, -4)).transpose(1, 2)
    return x if x.stride(-1) == 1 else x.contiguous()


def _split_mask(mask: Tensor | None, q: Tensor, k: Tensor, leading: torch.Size) -> tuple[Tensor | None, Tensor | None]:
    """Return the bias and the key mask that say what a mask of SDPA says."""
    if mask is None:
        return None, None
    if not 2 <= mask.ndim <= len(leading) + 2:
        raise InputError(f"attn_mask has shape {tuple(mask.shape)}; it broadcasts to (..., heads, N_q, N_k)")
    # Of a leaf, each element has a gradient of its own.
    one_value = not (mask.requires_grad and mask.is_leaf)
    mask = mask[(None,) * (len(leading) + 2 - mask.ndim)]
    # An expanded dimension holds one value: kernels broadcast it themselves.
    for dim in range(mask.ndim):
        if one_value and mask.stride(dim) == 0:
            mask = mask.narrow(dim, 0, 1)
    images, keys = leading[:-1], k.shape[1]
    if mask.dtype == torch.bool and mask.shape[-3:-1] == (1, 1):
        return None, mask[..., 0, 0, :].expand(*images, keys).reshape(-1, keys)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
    if len(images) == 1:
        return mask, None
    return mask.expand(*images, *mask.shape[-3:]).flatten(0, -4), None
