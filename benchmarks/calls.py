"""What is timed: one call of a candidate on one of a ring of input sets, by direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers import Peer
from benchmarks.shapes import Shape
from benchmarks.timing import sets_needed


@dataclass(frozen=True)
class InputSets:
    """Random packed inputs, (B, N, 3, H, D), and gradients of the output, (B, N, H * D), that take turns."""

    qkv: tuple[Tensor, ...]
    dout: tuple[Tensor, ...]
    cold: bool


def draw_inputs(shape: Shape, dtype: torch.dtype, device: torch.device, *, cache_bytes: int, seed: int) -> InputSets:
    """Return so many sets that none is in a cache of `cache_bytes` when it comes round again; 2 when that is 0."""
    generator = torch.Generator(device).manual_seed(seed)
    packed = (shape.batch, shape.tokens, 3, shape.heads, shape.head_dim)
    rows = (shape.batch, shape.tokens, shape.heads * shape.head_dim)
    element = torch.empty((), dtype=dtype).element_size()
    per_set = 3 * shape.batch * shape.tokens * shape.heads * shape.head_dim * element
    count = sets_needed(per_set, cache_bytes) if cache_bytes else 2
    qkv, dout = (
        tuple(torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(count))
        for size in (packed, rows)
    )
    return InputSets(qkv, dout, cold=bool(cache_bytes))


def make_call(peer: Peer, direction: str, sets: InputSets) -> Callable[[int], object]:
    """Return the call that is timed; its argument is a counter that picks the input set.

    The output is taken as (B, N, H * D), as the next layer of a ViT takes it: a peer that returns another layout pays
    for the copy. "backward" ends at the gradients of q, k and v, "both" at that of the packed tensor.
    """
    count = len(sets.qkv)
    if direction == "forward":
        views = [qkv.unbind(2) for qkv in sets.qkv]

        def forward(i: int) -> object:
            with torch.no_grad():
                return peer.attend(*views[i % count]).flatten(2)

        return forward
    if direction == "backward":
        leaves = [[x.detach().requires_grad_() for x in qkv.unbind(2)] for qkv in sets.qkv]
        outs = [peer.attend(*three).flatten(2) for three in leaves]

        def backward(i: int) -> object:
            j = i % count
            return torch.autograd.grad(outs[j], leaves[j], sets.dout[j], retain_graph=True)

        return backward
    if direction == "both":
        packed = [qkv.detach().requires_grad_() for qkv in sets.qkv]

        def both(i: int) -> object:
            j = i % count
            return torch.autograd.grad(peer.attend_packed(packed[j]).flatten(2), packed[j], sets.dout[j])

        return both
    raise ValueError(f"no direction is called {direction!r} (known: forward, backward, both)")
