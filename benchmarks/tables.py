"""The files of tile sizes that vitzoo_kernels ships: reading, merging and writing them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitzoo_kernels.dense import configs
from vitzoo_kernels.dense.configs import TileConfig

from benchmarks.kernels import Problem

# What an entry is found by.
KEY = ("kernel", "features", "products", "head_dim", "max_tokens")


def path_of(capability: int, triton_version: str) -> Path:
    """Return the file for a compute capability (90 is 9.0) and a version of Triton."""
    arch = configs.architecture(divmod(capability, 10))
    return configs.FOLDER / configs.file_name(arch, configs.minor_of(triton_version))


def entry_of(problem: Problem, tiles: TileConfig, **measured: Any) -> dict[str, Any]:
    """Return a problem's entry, with what was measured of it."""
    key = problem.key
    return {
        **{name: getattr(key, name) for name in KEY[:-1]},
        "max_tokens": problem.max_tokens,
        "tiles": [tiles.block_m, tiles.block_n, tiles.num_warps, tiles.num_stages],
        **measured,
    }


def write_entries(path: Path, entries: Iterable[dict[str, Any]], *, drop: configs.Key | None = None) -> None:
    """Put entries into a file, sorted, one on each line.

    An entry takes the place of the one with its key, unless that was timed and it was not; the others stay.

    Args:
        path: the file, made if missing.
        entries: what is to stand there.
        drop: of this key, whatever its lengths, only what was timed stays.
    """
    before = configs.read_entries(path) if path.exists() else []
    known = {_key(entry): entry for entry in before if "measured_on" in entry or configs.key_of(entry) != drop}
    for entry in entries:
        if "measured_on" in entry or "measured_on" not in known.get(_key(entry), {}):
            known[_key(entry)] = entry
    rows = ",\n".join(json.dumps(known[key]) for key in sorted(known))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"entries": [\n{rows}\n]}}\n')


def is_timed(path: Path, problem: Problem) -> bool:
    """Return whether a file has an entry for a problem that was timed."""
    entries = configs.read_entries(path) if path.exists() else []
    wanted = _key(entry_of(problem, TileConfig(0, 0, 0, 0)))
    return any(_key(entry) == wanted and "measured_on" in entry for entry in entries)


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in KEY)
