"""Tile sizes of the dense kernels, as data.

None of them has been timed. They were chosen so that every kernel compiles, for strides that 8 divides, for compute
capability 8.0, 9.0, 10.0 and 12.0 without spilling a register (Triton 3.9) and, unless marked large, within 99 KB of
shared memory, the smallest limit among them.

Keys are (bytes of one input element, head dim rounded up to 16).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TileConfig:
    """Sizes of one kernel's tiles.

    Args:
        block_m: rows of queries.
        block_n: rows of keys.
        num_warps: warps of a program.
        num_stages: stages of the load pipeline.
        large: whether it is for compute capability 9.x and 10.x alone, where a program has more than 99 KB of shared
            memory and tensor cores read from there; elsewhere it would spill.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    large: bool = False


FORWARD = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(64, 64, 4, 2),
    (2, 48): TileConfig(64, 64, 4, 2),
    (2, 64): TileConfig(64, 64, 4, 2),
    (2, 80): TileConfig(64, 64, 4, 2),
    (2, 96): TileConfig(64, 64, 4, 2),
    (2, 112): TileConfig(64, 32, 8, 2),
    (2, 128): TileConfig(64, 64, 8, 2),
    (4, 16): TileConfig(16, 16, 8, 1),
    (4, 32): TileConfig(16, 16, 8, 1),
    (4, 48): TileConfig(16, 16, 8, 1),
    (4, 64): TileConfig(16, 16, 8, 1),
    (4, 80): TileConfig(16, 16, 8, 1),
    (4, 96): TileConfig(16, 16, 8, 1),
    (4, 112): TileConfig(16, 16, 8, 1),
    (4, 128): TileConfig(16, 16, 8, 1),
}
BACKWARD_Q = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(64, 64, 4, 2),
    (2, 48): TileConfig(64, 64, 4, 2),
    (2, 64): TileConfig(64, 64, 4, 2),
    (2, 80): TileConfig(64, 32, 4, 1),
    (2, 96): TileConfig(64, 32, 4, 1),
    (2, 112): TileConfig(64, 32, 8, 1),
    (2, 128): TileConfig(64, 32, 8, 1),
    (4, 16): TileConfig(16, 16, 8, 1),
    (4, 32): TileConfig(16, 16, 8, 1),
    (4, 48): TileConfig(16, 16, 8, 1),
    (4, 64): TileConfig(16, 16, 8, 1),
    (4, 80): TileConfig(16, 16, 8, 1),
    (4, 96): TileConfig(16, 16, 8, 1),
    (4, 112): TileConfig(16, 16, 8, 1),
    (4, 128): TileConfig(16, 16, 8, 1),
}
BACKWARD_KV = {
    (2, 16): TileConfig(64, 64, 4, 2),
    (2, 32): TileConfig(64, 64, 4, 2),
    (2, 48): TileConfig(32, 64, 4, 2),
    (2, 64): TileConfig(32, 64, 4, 2),
    (2, 80): TileConfig(32, 64, 8, 1),
    (2, 96): TileConfig(32, 64, 8, 1),
    (2, 112): TileConfig(32, 64, 8, 1),
    (2, 128): TileConfig(32, 64, 8, 1),
    (4, 16): TileConfig(16, 16, 8, 1),
    (4, 32): TileConfig(16, 16, 8, 1),
    (4, 48): TileConfig(16, 16, 8, 1),
    (4, 64): TileConfig(16, 16, 8, 1),
    (4, 80): TileConfig(16, 16, 8, 1),
    (4, 96): TileConfig(16, 16, 8, 1),
    (4, 112): TileConfig(16, 16, 8, 1),
    (4, 128): TileConfig(16, 16, 8, 1),
}
# The backward of one program a head, by the keys it holds (block_n), the fewest first; for more keys it is split.
BACKWARD_WHOLE = {
    (2, 16): (TileConfig(32, 64, 4, 1), TileConfig(32, 128, 4, 1), TileConfig(32, 256, 8, 1, large=True)),
    (2, 32): (TileConfig(32, 64, 4, 1), TileConfig(32, 128, 8, 1), TileConfig(32, 256, 8, 1, large=True)),
    (2, 48): (TileConfig(32, 64, 4, 1), TileConfig(32, 128, 8, 1)),
    (2, 64): (
        TileConfig(32, 64, 4, 1),
        TileConfig(32, 128, 8, 1),
        TileConfig(32, 256, 8, 1, large=True),
        TileConfig(16, 272, 8, 1, large=True),
    ),
    (2, 80): (TileConfig(32, 64, 4, 1),),
}
# With a bias or dropout there is more to hold for each score.
FORWARD_RICH = {
    (size, dim): TileConfig(32, 32, 8, 1) if size == 2 else TileConfig(16, 16, 8, 1)
    for size in (2, 4)
    for dim in range(16, 129, 16)
}
BACKWARD_Q_RICH = {
    (size, dim): TileConfig(64, 32, 8, 1) if size == 2 else TileConfig(16, 16, 8, 1)
    for size in (2, 4)
    for dim in range(16, 129, 16)
}
BACKWARD_KV_RICH = {
    (size, dim): TileConfig(32, 64, 8, 1) if size == 2 else TileConfig(16, 16, 8, 1)
    for size in (2, 4)
    for dim in range(16, 129, 16)
}
BACKWARD_WHOLE_RICH = {
    (2, 16): (TileConfig(32, 64, 4, 1),),
    (2, 32): (TileConfig(32, 64, 4, 1),),
    (2, 48): (TileConfig(32, 64, 4, 1),),
    (2, 64): (TileConfig(32, 64, 8, 1),),
}
# Packed sequences have loops over both full tiles and tails, which cost registers; their backward has the rich tiles.
FORWARD_RAGGED = {
    (size, dim): TileConfig(64, 64 if dim <= 64 else 32, 8, 1) if size == 2 else TileConfig(16, 16, 8, 1)
    for size in (2, 4)
    for dim in range(16, 129, 16)
}
# What spills or does not fit without the instructions of 9.x and 10.x, on 8.x and 12.x alone.
SMALL = {
    "BACKWARD_Q": {(2, 112): TileConfig(32, 32, 8, 1), (2, 128): TileConfig(32, 32, 8, 1)},
    "BACKWARD_KV": {
        (2, 80): TileConfig(16, 64, 8, 1),
        (2, 96): TileConfig(16, 64, 8, 1),
        (2, 112): TileConfig(16, 32, 8, 1),
        (2, 128): TileConfig(16, 32, 8, 1),
    },
}
BACKWARD_BIAS = {
    (size, dim): TileConfig(32, 32, 8, 1) if size == 2 else TileConfig(16, 16, 4, 1)
    for size in (2, 4)
    for dim in range(16, 129, 16)
}
DROPOUT_MASK = TileConfig(32, 64, 4, 1)
# Heads that a program of the forward kernel does one after the other, when it holds all their queries.
HEADS_PER_PROGRAM = 4
# The bias's gradient has about this many programs, however few matrices there are.
BIAS_PROGRAMS = 1024
