"""Where vitzoo's kernel was measured to be faster than torch's attention: what `attn="auto"` goes by, as data.

A file, sm90.json, for each generation of GPU, made from the benchmarks' results by `python -m benchmarks.crossover`. No
file, no claim: `auto` is then torch's attention.
"""

from __future__ import annotations

import functools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

FOLDER = Path(__file__).parent
# Torch's time over the kernel's: below, torch's attention keeps the call.
LEAST = 1.0
# {(tokens, heads): torch's time over the kernel's} of one dtype, head dim and direction.
Points: TypeAlias = dict[tuple[int, int], float]
# {(major, minor) of a GPU: {(dtype, head dim, whether with gradients): points}}.
Table: TypeAlias = dict[tuple[int, int], dict[tuple[str, int, bool], Points]]


@functools.cache
def read() -> Table:
    """Return all that was measured."""
    table: Table = {}
    for path in sorted(FOLDER.glob("sm*.json")):
        arch = int(path.stem.removeprefix("sm"))
        of_gpu = table.setdefault((arch // 10, arch % 10), {})
        for entry in json.loads(path.read_text())["entries"]:
            points = of_gpu.setdefault((entry["dtype"], entry["head_dim"], entry["training"]), {})
            points[entry["tokens"], entry["heads"]] = entry["ratio"]
    return table


def wins(points: Points, *, tokens: int, heads: int) -> bool:
    """Return whether the kernel was faster at every measured size around this one.

    torch.compile traces through it.

    Args:
        points: what was measured for the GPU, dtype, head dim and direction.
        tokens: N, of queries and of keys.
        heads: images times heads, B * H; more than were measured count as the most that were, which fill a GPU.

    Returns:
        False too where nothing was measured, or sizes that do not enclose this one.
    """
    around = []
    for n in _enclosing(tokens, [n for n, _ in points]):
        measured = [h for other, h in points if other == n]
        around += [points[n, h] for h in _enclosing(min(heads, max(measured)), measured)] or [0.0]
    return len(around) > 0 and min(around) >= LEAST


def place(capability: tuple[int, int], tokens: int, heads: int) -> tuple[int, int]:
    """Return numbers that are the same for two sizes only if `wins` is, whatever the dtype and head dim."""
    of_tokens, of_heads = _edges(capability)
    # A measured size is an interval of its own.
    return (
        bisect_left(of_tokens, tokens) + bisect_right(of_tokens, tokens),
        bisect_left(of_heads, heads) + bisect_right(of_heads, heads),
    )


def _enclosing(size: int, measured: Sequence[int]) -> list[int]:
    """Return the measured sizes next to one: itself, or the one below and the one above; none outside of them."""
    below, above = [n for n in measured if n <= size], [n for n in measured if n >= size]
    return sorted({max(below), min(above)}) if below and above else []


@functools.cache
def _edges(capability: tuple[int, int]) -> tuple[list[int], list[int]]:
    sizes = [size for points in read().get(capability, {}).values() for size in points]
    return sorted({n for n, _ in sizes}), sorted({h for _, h in sizes})
