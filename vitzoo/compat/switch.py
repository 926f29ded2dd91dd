"""Other libraries' code on a backend of vitzoo: their calls of `scaled_dot_product_attention`, made elsewhere."""

from __future__ import annotations

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
        function: a Python function that calls SDPA by any of its names: `F.`, `nn.functional.`, `torch.nn.functional.`.
        attend: runs attention.

    Raises:
        InputError: the function does not call SDPA itself.
    """
    if not isinstance(function, FunctionType) or "scaled_dot_product_attention" not in function.__code__.co_names:
        name = getattr(function, "__qualname__", repr(function))
        raise InputError(f"{name} does not call scaled_dot_product_attention itself, so it cannot be run elsewhere")
    functional = _copy(F, scaled_dot_product_attention=partial(attend_as_sdpa, attend))
    network = _copy(nn, functional=functional)
    instead = {id(F): functional, id(nn): network, id(torch): _copy(torch, nn=network)}
    names = {name: instead.get(id(value), value) for name, value in function.__globals__.items()}
    # By this name torch.compile would look for the globals in the library's module.
    names.pop("__name__")
    found = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


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
        query: (..., H, N_q, D).
        key: (..., H or 1, N_k, D), or with `enable_gqa` a number of heads that divides H.
        value: as `key`.
        attn_mask: broadcasts to (..., H, N_q, N_k): bool, True where attention may look, or added to the scores.
            A bool mask that is the same for all heads and queries becomes a key mask; any other a bias of 0 and -inf.
        dropout_p: share of weights dropped.
        is_causal: key j is seen by query i if j <= i; as a bias of (N_q, N_k), for no backend knows of it.
        scale: factor on the scores; D ** -0.5 when None.
        enable_gqa: each key serves H / H_k heads that follow each other.

    Returns:
        (..., H, N_q, D).

    Raises:
        InputError: a mask and `is_causal` come together, or the inputs have no heads.
        BackendUnsupported: no allowed backend can run the call.
    """
    if query.ndim < 4:
        raise InputError(f"query has shape {tuple(query.shape)}; vitzoo's attention takes (..., heads, N, head_dim)")
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    leading = query.shape[:-2]
    q, k, v = (
        tokens_first(x if x.shape[:-2] == leading else x.expand(*leading, *x.shape[-2:])) for x in (query, key, value)
    )
    bias, key_mask = _split_mask(attn_mask, q, k, leading)
    if is_causal:
        if attn_mask is not None:
            raise InputError("attn_mask and is_causal=True were both given; put the causal part into the mask")
        bias = q.new_full((q.shape[1], k.shape[1]), float("-inf")).triu_(1)
    out = attend(q, k, v, bias=bias, key_mask=key_mask, scale=scale, dropout_p=dropout_p)
    out = out.transpose(1, 2)
    return out if query.ndim == 4 else out.view(*leading[:-1], *out.shape[1:])


def tokens_first(x: Tensor) -> Tensor:
    """Return (..., H, N, D) as (B, N, H, D), with D lying together as kernels read it."""
    x = (x if x.ndim == 4 else x.flatten(0, -4)).transpose(1, 2)
    return x if x.stride(-1) == 1 else x.contiguous()


def _split_mask(mask: Tensor | None, q: Tensor, k: Tensor, leading: torch.Size) -> tuple[Tensor | None, Tensor | None]:
    """Return the bias and the key mask that say what a mask of SDPA says."""
    if mask is None:
        return None, None
    mask = mask[(None,) * (len(leading) + 2 - mask.ndim)]
    # An expanded dimension holds one value: kernels broadcast it themselves.
    for dim in range(mask.ndim):
        if mask.stride(dim) == 0:
            mask = mask.narrow(dim, 0, 1)
    images, keys = leading[:-1], k.shape[1]
    if mask.dtype == torch.bool and mask.shape[-3:-1] == (1, 1):
        return None, mask[..., 0, 0, :].expand(*images, keys).reshape(-1, keys)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
    if len(images) == 1:
        return mask, None
    return mask.expand(*images, *mask.shape[-3:]).flatten(0, -4), None
