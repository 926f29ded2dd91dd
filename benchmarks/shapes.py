"""The attention shapes of Vision Transformers, in order of importance, and what each must cost at least.

B images, N tokens, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

# Each list starts with what matters most.
TOKENS = (197, 257, 577, 201, 261, 1025, 729, 50, 65, 1370, 4097)
HEAD_DIMS = (64, 72, 80, 128, 96)
BATCHES = (128, 8, 1, 32)
# ViT-B, so400m, ViT-H, PE-core-G, AIMv2-L.
HEADS = {64: 12, 72: 16, 80: 16, 96: 16, 128: 8}
DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True)
class Shape:
    """The sizes of one attention call with as many queries as keys."""

    batch: int
    tokens: int
    heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"B{self.batch} N{self.tokens} H{self.heads} D{self.head_dim}"


@dataclass(frozen=True)
class Cost:
    """The least a call must do: bytes through memory, each tensor once, and FLOPs of its matrix products."""

    bytes: int
    flops: int

    def floor(self, peaks: dict[str, float]) -> float:
        """Return the seconds that no implementation can beat, for `bytes_per_s` and `flops_per_s` of a machine."""
        return max(self.bytes / peaks["bytes_per_s"], self.flops / peaks["flops_per_s"])

    def bound(self, peaks: dict[str, float]) -> str:
        """Return which of the two makes the floor: "memory" or "compute"."""
        memory = self.bytes / peaks["bytes_per_s"] >= self.flops / peaks["flops_per_s"]
        return "memory" if memory else "compute"


def cost(shape: Shape, direction: str, element_size: int) -> Cost:
    """Return the cost of a direction: forward (q, k, v in; out, lse out), backward (q, k, v, out, dout, lse in; dq, dk,
    dv out; the scores computed again), or both.
    """  # noqa: D205
    rows = shape.batch * shape.heads * shape.tokens
    tensor, lse = rows * shape.head_dim * element_size, rows * 4
    matmul = 2 * rows * shape.tokens * shape.head_dim
    forward = Cost(4 * tensor + lse, 2 * matmul)
    backward = Cost(8 * tensor + lse, 5 * matmul)
    both = Cost(forward.bytes + backward.bytes, forward.flops + backward.flops)
    return {"forward": forward, "backward": backward, "both": both}[direction]


def vit_suite(
    *,
    tokens: Sequence[int] = TOKENS,
    head_dims: Sequence[int] = HEAD_DIMS,
    batches: Sequence[int] = BATCHES,
) -> list[Shape]:
    """Return every combination, what matters most first: early in its three lists, batch and head dim before tokens."""

    def importance(choice: tuple[int, int, int]) -> tuple[int, int, int]:
        batch, head_dim, count = choice
        return batches.index(batch) + head_dims.index(head_dim), batches.index(batch), tokens.index(count)

    choices = sorted(product(batches, head_dims, tokens), key=importance)
    return [Shape(batch, count, HEADS[head_dim], head_dim) for batch, head_dim, count in choices]
