"""Tile sizes of the dense kernels, as data.

None of them has been timed. They were chosen so that every kernel compiles, for strides that 8 divides, for compute
capability 8.0, 9.0, 10.0 and 12.0 without spilling a register (Triton 3.9) and within 99 KB of shared memory, the
smallest limit among them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TileConfig:
    """Sizes of one kernel's tiles: rows of queries, rows of keys, warps a program, stages of the load pipeline."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# Keyed by (bytes of one input element, head dim padded to a power of two).
FORWARD = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(64, 64, 4, 1),
    (2, 64): TileConfig(128, 64, 8, 2),
    (2, 128): TileConfig(64, 32, 4, 2),
    (4, 16): TileConfig(32, 32, 4, 1),
    (4, 32): TileConfig(32, 32, 4, 1),
    (4, 64): TileConfig(32, 32, 8, 1),
    (4, 128): TileConfig(16, 16, 4, 1),
}
BACKWARD_KV = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(32, 64, 4, 2),
    (2, 64): TileConfig(32, 64, 4, 2),
    (2, 128): TileConfig(32, 64, 8, 1),
    (4, 16): TileConfig(32, 32, 4, 1),
    (4, 32): TileConfig(32, 32, 4, 1),
    (4, 64): TileConfig(16, 32, 4, 1),
    (4, 128): TileConfig(16, 32, 4, 1),
}
BACKWARD_Q = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(64, 64, 4, 2),
    (2, 64): TileConfig(64, 64, 4, 2),
    (2, 128): TileConfig(64, 32, 4, 1),
    (4, 16): TileConfig(32, 16, 4, 1),
    (4, 32): TileConfig(32, 32, 4, 1),
    (4, 64): TileConfig(32, 32, 4, 1),
    (4, 128): TileConfig(32, 16, 4, 1),
}
# The delta kernel reads each row once and keeps nothing: one size serves all.
DELTA = TileConfig(block_m=16, block_n=1, num_warps=4, num_stages=1)
