"""Which tiles a kernel gets. The sizes are data: a file in table/ for each generation of GPU and version of Triton.

An entry stands for every head dim that rounds up to its own multiple of 16, and for up to `max_tokens` keys. Entries
that were timed say on what; the others were chosen for what the compiler makes of them: the first of a list that
spills no register, waits for no product and fits into shared memory.
"""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNELS = ("forward", "forward_whole", "backward_q", "backward_kv", "backward_whole", "backward_bias")
# How products are made: of 16-bit factors, of float32 ones cut to TF32, or exactly.
PRODUCTS = ("16", "tf32", "ieee")
# What a program has to hold for each score: nothing, a mask, the ends of a packed sequence, a bias, dropout, or both.
# From the bias on there may be a mask too, and dropout may have packed sequences.
FEATURES = ("plain", "masked", "ragged", "bias", "dropout", "rich")
HEAD_DIMS = tuple(range(16, 129, 16))
# Compute capabilities that have a file; others of the same major number use it too, and unknown ones the first.
ARCHITECTURES = (80, 90, 100, 120)
FOLDER = Path(__file__).parent / "table"
UNBOUNDED = 2**31


@dataclass(frozen=True)
class TileConfig:
    """Sizes of one kernel's tiles.

    Args:
        block_m: rows of queries.
        block_n: rows of keys.
        num_warps: warps of a program.
        num_stages: stages of the load pipeline.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, order=True)
class Key:
    """What decides the tiles, beside the GPU and the number of keys.

    Args:
        kernel: one of `KERNELS`.
        features: one of `FEATURES`.
        products: one of `PRODUCTS`.
        head_dim: D, rounded up to a multiple of 16.
    """

    kernel: str
    features: str
    products: str
    head_dim: int


DROPOUT_MASK = TileConfig(32, 64, 4, 1)
# Heads that a program of the forward kernel does one after the other, when it holds all their queries.
HEADS_PER_PROGRAM = 4
# From so many heads on the forward may give each a program of its own: two for each of an H200's 132 multiprocessors.
MANY_HEADS = 264
# The bias's gradient has about this many programs, however few matrices there are.
BIAS_PROGRAMS = 1024


def find(capability: tuple[int, int], triton_version: str, key: Key, num_keys: int) -> TileConfig | None:
    """Return the tiles for so many keys, or None where the table has none for that many.

    Args:
        capability: (major, minor) of the GPU.
        triton_version: such as '3.9.0'.
        key: which launch.
        num_keys: N_k, of the longest sequence.
    """
    for max_tokens, tiles in _table(architecture(capability), minor_of(triton_version)).get(key, ()):
        if num_keys <= max_tokens:
            return tiles
    return None


def architecture(capability: tuple[int, int]) -> int:
    """Return which of `ARCHITECTURES` stands for a GPU."""
    return next((known for known in ARCHITECTURES if known // 10 == capability[0]), ARCHITECTURES[0])


def minor_of(triton_version: str) -> tuple[int, int]:
    """Return (3, 9) for '3.9.0+git'."""
    major, minor = re.findall(r"\d+", triton_version)[:2]
    return int(major), int(minor)


def file_name(arch: int, minor: tuple[int, int]) -> str:
    """Return the name of a table's file."""
    return f"sm{arch}-triton{minor[0]}.{minor[1]}.json"


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a table's file."""
    entries: list[dict[str, Any]] = json.loads(path.read_text())["entries"]
    return entries


def key_of(entry: dict[str, Any]) -> Key:
    """Return what an entry is for."""
    return Key(*(entry[name] for name in ("kernel", "features", "products", "head_dim")))


@functools.cache
def _table(arch: int, minor: tuple[int, int]) -> dict[Key, list[tuple[int, TileConfig]]]:
    """Return {key: [(max_tokens, tiles), ...]}, the fewest tokens first, of the nearest version that has a file."""
    known = [tuple(map(int, re.findall(r"\d+", path.stem)[1:3])) for path in FOLDER.glob(f"sm{arch}-triton*.json")]
    older = [version for version in known if version <= minor]
    nearest = max(older) if older else min(known)
    table: dict[Key, list[tuple[int, TileConfig]]] = {}
    for entry in read_entries(FOLDER / file_name(arch, (nearest[0], nearest[1]))):
        table.setdefault(key_of(entry), []).append((entry["max_tokens"], TileConfig(*entry["tiles"])))
    for rows in table.values():
        rows.sort(key=lambda row: row[0])
    return table
