"""Is what an attention backend computes right? Output, lse and gradients against the derived budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitzoo.testing.backend import Backend, normal, refuse_slip
from vitzoo.testing.check import Unavailable
from vitzoo.testing.yardsticks import exact_attention

# One token, two, one below and one above a tile's width, ViT's with and without a class token, one past a power of two.
LENGTHS = (1, 2, 31, 37, 196, 197, 257, 1024)
LONG = 1024
BATCH = {2: 3, 37: 3}
BIAS_SHAPES: dict[str, Callable[[int, int, int, int], tuple[int, ...]]] = {
    "full": lambda b, h, n_q, n_k: (b, h, n_q, n_k),
    "heads": lambda b, h, n_q, n_k: (h, n_q, n_k),
    "batch": lambda b, h, n_q, n_k: (b, 1, n_q, n_k),
    "keys": lambda b, h, n_q, n_k: (b, 1, 1, n_k),
    "queries": lambda b, h, n_q, n_k: (n_q, 1),
}


def check_numbers(backend: Backend, device: str, *, dtype: str, length: int) -> None:
    """Self-attention of one length, in one dtype."""
    if length == LONG and device == "cpu":
        raise Unavailable(f"N = {LONG} is checked on a GPU alone: elsewhere it takes too long")
    dims = backend.head_dims
    head_dim = dims[(backend.caps.dtypes.index(dtype) + LENGTHS.index(length)) % len(dims)]
    inputs = backend.qkv(
        length,
        device=device,
        batch=BATCH.get(length, 1),
        heads=2 if length < 100 else 1,
        dtype=getattr(torch, dtype),
        head_dim=head_dim,
    )
    backend.check_numbers(*inputs)


def check_head_dims(backend: Backend, device: str, *, dtype: str) -> None:
    """Every declared head dim that the lengths left out."""
    first, dims = backend.caps.dtypes.index(dtype), backend.head_dims
    met = {dims[(first + i) % len(dims)] for i, length in enumerate(LENGTHS) if length != LONG}
    for head_dim in dims:
        if head_dim not in met:
            inputs = backend.qkv(37, device=device, batch=1, heads=1, dtype=getattr(torch, dtype), head_dim=head_dim)
            try:
                backend.check_numbers(*inputs)
            except Exception as error:
                error.add_note(f"with head_dim {head_dim}")
                raise


def check_scale(backend: Backend, device: str) -> None:
    """The default scale is D ** -0.5, and a given one is used."""
    q, k, v = backend.qkv(13, device=device)
    for scale in (None, 0.7):
        options = {} if scale is None else {"scale": scale}
        right = q.shape[-1] ** -0.5 if scale is None else scale
        slips = {
            "the scores are not multiplied with a scale (scale=None is head_dim ** -0.5)": exact(q, k, v, scale=1.0),
            "the scale is applied twice": exact(q, k, v, scale=right**2),
        }
        if scale is not None:
            slips[f"scale={scale} is ignored"] = exact(q, k, v)
        refuse_slip(output(backend, q, k, v, **options), exact(q, k, v, **options), slips)
    backend.check_numbers(q, k, v, scale=0.7)


def check_bias(backend: Backend, device: str, *, shape: str) -> None:
    """A bias of one of the shapes that broadcast to (B, H, N_q, N_k), and its gradient if that is declared."""
    n_q, n_k = (19, 23) if backend.caps.cross else (19, 19)
    q, k, v = backend.qkv(n_q, n_k, device=device)
    bias = normal(BIAS_SHAPES[shape](2, 2, n_q, n_k), seed=5).to(q).mul(2)
    vanishing = set()
    if shape == "queries":
        # The same for all keys of a query: the weights, and so the output, do not depend on it.
        vanishing = set() if backend.caps.lse else {"dbias"}
    else:
        slips = {
            "the bias is ignored: it is added to the scaled scores": exact(q, k, v),
            "the bias is subtracted": exact(q, k, v, bias=-bias),
            "the bias is multiplied with the scale: it is added to the scaled scores": exact(
                q, k, v, bias=bias * q.shape[-1] ** -0.5
            ),
        }
        if bias.ndim == 4:
            slips["the bias of the first image is used for all"] = exact(q, k, v, bias=bias[:1])
        refuse_slip(output(backend, q, k, v, bias=bias), exact(q, k, v, bias=bias), slips)
    backend.check_numbers(q, k, v, bias=bias.requires_grad_(backend.caps.bias_grad), vanishing=vanishing)


def check_bias_hides(backend: Backend, device: str) -> None:
    """A bias of -inf hides a key from a query; a query that sees none has zeros."""
    q, k, v = backend.qkv(11, device=device)
    bias = torch.zeros(1, 1, 11, 11).to(q)
    bias[..., torch.arange(11), torch.arange(11).roll(3)] = -torch.inf
    backend.check_numbers(q, k, v, bias=bias)
    bias[..., 4, :] = -torch.inf
    hidden = output(backend, q, k, v, bias=bias)[:, 4]
    assert (hidden == 0).all(), f"a query whose bias is -inf for every key must give zeros; got {_sample(hidden)}"


def check_key_mask(backend: Backend, device: str) -> None:
    """True is where attention may look; an image whose keys are all masked gives zeros and no gradient."""
    q, k, v = backend.qkv(13, device=device, batch=3)
    mask = torch.rand(3, 13, generator=torch.Generator().manual_seed(1)).to(device) < 0.6
    mask[:, 0], mask[:, 1] = True, False
    refuse_slip(
        output(backend, q, k, v, key_mask=mask),
        exact(q, k, v, key_mask=mask),
        {
            "the key mask is ignored": exact(q, k, v),
            "the key mask is read the wrong way round: True is where attention may look": exact(
                q, k, v, key_mask=~mask
            ),
        },
    )
    backend.check_numbers(q, k, v, key_mask=mask)
    mask[2] = False
    hidden = output(backend, q, k, v, key_mask=mask)[2]
    assert (hidden == 0).all(), f"an image whose keys are all masked must give zeros; got {_sample(hidden)}"
    backend.check_numbers(q, k, v, key_mask=mask)


def check_one_visible_key(backend: Backend, device: str) -> None:
    """With one visible key the output is that key's value."""
    q, k, v = backend.qkv(37, device=device)
    for visible in (0, 17, 36):
        mask = torch.zeros(2, 37, dtype=torch.bool, device=device)
        mask[:, visible] = True
        out = output(backend, q, k, v, key_mask=mask)
        expected = v[:, [visible]].expand_as(out)
        # One rounding: the weight is 1, and its sum may have been divided by.
        wrong = (out.double() - expected.double()).abs() > torch.finfo(v.dtype).eps * expected.double().abs()
        assert not wrong.any(), (
            f"with key {visible} alone visible, every query must get its value; "
            f"{int(wrong.sum())} of {out.numel()} elements are more than a rounding off"
        )


def check_bias_and_key_mask(backend: Backend, device: str) -> None:
    """Both together."""
    q, k, v = backend.qkv(13, device=device)
    bias = normal((2, 13, 13), seed=5).to(q)
    mask = torch.rand(2, 13, generator=torch.Generator().manual_seed(1)).to(device) < 0.6
    mask[:, 0] = True
    backend.check_numbers(q, k, v, bias=bias.requires_grad_(backend.caps.bias_grad), key_mask=mask)


def check_cross(backend: Backend, device: str) -> None:
    """More queries than keys, fewer, and one."""
    for n_q, n_k in ((37, 5), (5, 37), (1, 70), (70, 1)):
        backend.check_numbers(*backend.qkv(n_q, n_k, device=device, batch=1))


def check_strided(backend: Backend, device: str) -> None:
    """Views of packed and of transposed memory, and one query for all images."""
    q, k, v = backend.qkv(13, device=device)
    packed = torch.stack([q, k, v], dim=2).unbind(2)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    one_for_all = [q[:1].expand_as(q), k, v]
    for name, views in (("packed (B, N, 3, H, D)", packed), ("(B, H, N, D)", heads_first), ("expanded", one_for_all)):
        try:
            backend.check_numbers(*views)
        except Exception as error:
            error.add_note(f"with inputs that are views of {name} memory; only the last stride is sure to be 1")
            raise


def check_equal_rows(backend: Backend, device: str) -> None:
    """Equal keys share the weight equally."""
    q, k, v = backend.qkv(37, device=device)
    # The gradients of the scores of one query sum to zero, and here all of them meet the same key.
    backend.check_numbers(q, k[:, :1].repeat(1, 37, 1, 1), v, vanishing=() if backend.caps.lse else ("dq",))


def check_large_logits(backend: Backend, device: str) -> None:
    """Scores up to hundreds, of both signs: their exponentials overflow unless the largest is subtracted first."""
    q, k, v = backend.qkv(37, device=device)
    backend.check_numbers(q * 40, k, v)


def check_varlen(backend: Backend, device: str) -> None:
    """Sequences that lie one after the other do not see each other."""
    lengths = (5, 1, 17, 8)
    ends = torch.tensor((0, *lengths), dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    q, k, v = backend.qkv(sum(lengths), device=device, batch=1)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    apart = torch.zeros(len(owner), len(owner)).to(q).masked_fill(owner[:, None] != owner, -torch.inf)
    packed = partial(
        backend.function, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=max(lengths), max_seqlen_k=max(lengths)
    )
    refuse_slip(
        first(packed(q, k, v)),
        exact(q, k, v, bias=apart),
        {"cu_seqlens are ignored: sequences look at each other": exact(q, k, v)},
    )

    def without_bias(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor, **options: Any) -> Any:
        return packed(q, k, v, **options)

    backend.check_numbers(q, k, v, bias=apart, function=without_bias)


def output(backend: Backend, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Return the backend's output (B, N_q, H, D), without gradients."""
    with torch.no_grad():
        return first(backend.function(q, k, v, **options))


def first(result: Any) -> Tensor:
    """Return the output of (output, lse), or the output itself."""
    return result[0] if isinstance(result, tuple) else result


def exact(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Return attention's output in float64."""
    return exact_attention(q, k, v, **options)[0]


def _sample(values: Tensor) -> str:
    return f"{values.flatten()[:3].tolist()}"
