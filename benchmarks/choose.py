"""Choose tile sizes by what the compiler makes of them, and write them as the data that vitzoo_kernels ships. No GPU.

    python -m benchmarks.choose [--capability 90] [--kernels forward] [--features plain] [--missing] [--keep]

For each kernel, kind of product, feature and head dim the first of a list is taken that breaks no limit (registers,
spills, shared memory, products that wait) at lengths with short and with long tails; where every one spills, that which
spills least, and its entry says so. Nothing is timed, so an entry that was timed is never replaced. With `--keep` what
ships comes first in the list: for another Triton, it is then replaced where that compiles it badly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from typing import Any

import triton
from vitzoo_kernels.dense import configs
from vitzoo_kernels.dense.configs import TileConfig

from benchmarks import tables
from benchmarks.ahead_of_time import SHARED_LIMIT, compiled
from benchmarks.kernels import Problem, launches

DTYPE = {"16": "bf16", "tf32": "tf32", "ieee": "fp32"}
# Lengths that leave 5 and 44 rows of tiles of 64.
TOKENS = (197, 300)
# Keys that one program for a whole head may hold; more, and there is one for each tile. The forward makes room for as
# many as there are, in sixteens. Up to 64 its keys would stay for one tile of queries only.
WHOLE_FORWARD = (128, 208, 256, 272)
WHOLE_BACKWARD = (64, 128, 256, 272)
# The first is the one that is hoped for: large enough for the widest instruction, small enough to waste little.
CANDIDATES = {
    "forward": [
        (64, 128, 4, 2),
        (64, 64, 4, 3),
        (64, 64, 4, 2),
        (64, 64, 4, 1),
        (64, 64, 8, 2),
        (64, 32, 4, 1),
        (64, 32, 8, 1),
    ],
    "backward_q": [(64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 1), (64, 64, 8, 1), (64, 32, 8, 1)],
    "backward_kv": [(64, 64, 4, 2), (64, 64, 4, 1), (32, 64, 4, 2), (32, 64, 4, 1), (32, 64, 8, 1), (16, 64, 8, 1)],
    "backward_bias": [(64, 64, 4, 2), (64, 64, 4, 1), (64, 64, 8, 2), (64, 64, 8, 1), (32, 64, 8, 1)],
}
SMALLER = [(32, 32, 4, 1), (32, 32, 8, 1), (16, 32, 4, 1), (16, 32, 8, 1), (16, 16, 4, 1), (16, 16, 8, 1)]
# Bytes of shared memory of a multiprocessor, by compute capability, and what it keeps of them for each program.
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024, 120: 100 * 1024}
SHARED_KEPT = 1024
SPILLS = re.compile(r"spills (\d+) bytes of registers")
# Without tensor cores a tile is what registers alone can multiply.
EXACT = [(16, 16, 8, 1), (16, 16, 16, 1)]


def main() -> int:
    """Choose what is asked for and write the tables; 1 when something has no tiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", nargs="+", type=int, choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument("--kernels", nargs="+", choices=configs.KERNELS, default=list(configs.KERNELS))
    parser.add_argument("--products", nargs="+", choices=configs.PRODUCTS, default=list(configs.PRODUCTS))
    parser.add_argument("--features", nargs="+", choices=configs.FEATURES, default=list(configs.FEATURES))
    parser.add_argument("--head-dims", nargs="+", type=int, choices=configs.HEAD_DIMS, default=configs.HEAD_DIMS)
    parser.add_argument("--missing", action="store_true", help="only what has no entry yet")
    parser.add_argument("--keep", action="store_true", help="keep what ships where it breaks no limit")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    options = parser.parse_args()
    grid = product(options.capability, options.kernels, options.features, options.products, options.head_dims)
    jobs = [job for job in grid if possible(*job[1:3]) and not (options.missing and has_entry(*job))]
    lacking = 0
    # Spawned, not forked: torch has threads by now.
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(choose, *job, keep=options.keep) for job in jobs]):
            job, entries, said = done.result()
            tables.write_entries(tables.path_of(job[0], triton.__version__), entries, drop=configs.Key(*job[1:]))
            lacking += not entries and not job[1].endswith("whole")
            print(*job, said, flush=True)
    return 1 if lacking else 0


def possible(kernel: str, features: str) -> bool:
    """Return whether a kernel ever has these features."""
    if kernel == "backward_bias":
        return features in ("bias", "rich")
    return not (kernel.endswith("whole") and features == "ragged")


def has_entry(capability: int, kernel: str, features: str, products: str, head_dim: int) -> bool:
    """Return whether the table has an entry already."""
    path = tables.path_of(capability, triton.__version__)
    entries = configs.read_entries(path) if path.exists() else []
    return configs.Key(kernel, features, products, head_dim) in map(configs.key_of, entries)


def choose(
    capability: int, kernel: str, features: str, products: str, head_dim: int, *, keep: bool = False
) -> tuple[tuple[Any, ...], list[dict[str, Any]], str]:
    """Return what was asked for, its entries, and what there is to say of them."""
    started, found = time.monotonic(), []
    key = configs.Key(kernel, features, products, head_dim)
    refused: list[tuple[str, TileConfig]] = []
    for max_tokens, tried in lists(kernel, products):
        problem = Problem(kernel, DTYPE[products], head_dim, max_tokens, features)
        ships = configs.find(divmod(capability, 10), triton.__version__, key, max_tokens) if keep else None
        for tiles in dict.fromkeys([ships, *tried] if ships else tried):
            reason = why_not(problem, tiles, capability)
            if reason is None:
                found.append(tables.entry_of(problem, tiles))
                break
            refused.append((reason, tiles))
        else:
            # A kernel that nothing else stands in for runs all the same, with the fewest bytes spilled.
            if not kernel.endswith("whole") and (spilling := [pair for pair in refused if SPILLS.fullmatch(pair[0])]):
                reason, tiles = min(spilling, key=lambda pair: int(SPILLS.fullmatch(pair[0])[1]))  # type: ignore[index]
                found.append(tables.entry_of(problem, tiles, breaks=reason))
            # What holds fewer keys than these does not hold more.
            break
    chosen = " ".join(f"<={entry['max_tokens']}: {entry['tiles']}" for entry in found) or f"NONE {refused}"
    said = f"{chosen} after {len(refused)} others, {time.monotonic() - started:.0f} s"
    return (capability, kernel, features, products, head_dim), found, said


def lists(kernel: str, products: str) -> Iterator[tuple[int, list[TileConfig]]]:
    """Yield the most keys, and the tiles to try for as many, the hoped-for first."""
    if not kernel.endswith("whole"):
        sizes = EXACT if products == "ieee" else [*CANDIDATES[kernel], *SMALLER]
        yield configs.UNBOUNDED, [TileConfig(*four) for four in sizes]
    elif products == "16" and kernel == "forward_whole":
        for keys in WHOLE_FORWARD:
            yield keys, [TileConfig(64, group, 4, 1) for group in (128, 64)]
    elif products == "16":
        for keys in WHOLE_BACKWARD:
            yield keys, [TileConfig(rows, keys, warps, 1) for rows, warps in ((32, 4), (32, 8), (16, 8))]


def why_not(problem: Problem, tiles: TileConfig, capability: int) -> str | None:
    """Return why tiles cannot ship, by what the compiler makes of them and what is known of it, or None."""
    if tiles.num_warps == 4 and 32 in (tiles.block_m, tiles.block_n):
        minor = configs.minor_of(triton.__version__)
        if minor == (3, 7):
            return "Triton 3.7 may read past memory with tiles of 32 and 4 warps (triton-lang/triton, issue 11366)"
        if minor == (3, 6) and capability == 100 and tiles.num_stages > 1:
            return "Triton 3.6 may race on 10.0 with pipelined tiles of 32 and 4 warps (triton-lang/triton, issue 9871)"
    tokens = TOKENS
    if problem.kernel.endswith("whole"):
        # As many as there is room for, and fewer, so that the last of them are masked.
        tokens = (problem.max_tokens, problem.max_tokens - 11)
    for launch in launches(problem, tiles, capability, problem.calls(*tokens)):
        try:
            program = compiled(launch, capability)
        except Exception as error:  # Triton raises what its passes happen to say of tiles that they cannot place
            return f"does not compile: {type(error).__name__}: {error}".splitlines()[0]
        if program.problems:
            return "; ".join(program.problems)
        alone = 2 * (program.shared + SHARED_KEPT) > SHARED[capability]
        if problem.kernel == "forward" and tiles.num_warps == 4 and alone:
            return f"{program.shared} bytes of shared memory leave a multiprocessor four warps"
    return None


if __name__ == "__main__":
    sys.exit(main())
