"""What ships, compiled ahead of time: registers, spills, shared memory, instructions of every program. No GPU.

    python -m benchmarks.codegen [--capability 80 90 100 120] [--dtypes bf16] [--head-dims 64 72] [--tokens 197]

Prints a row for every distinct program and exits with 1 when one breaks a limit, with the reasons below the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

from vitzoo_kernels.dense import configs

from benchmarks.ahead_of_time import SHARED_LIMIT, Program, compiled, launches_of
from benchmarks.kernels import DTYPES, Problem, matmul_precision

HEAD_DIMS = (16, 32, 48, 64, 72, 80, 88, 96, 104, 112, 128)
# One for every bucket, and the lengths that end in every tail a ViT has.
TOKENS = (50, 197, 257, 577)
Job = tuple[int, str, str, int, list[int]]


@dataclass(frozen=True)
class Row:
    """One line of the table, and the limits that its program breaks."""

    line: str
    name: str
    problems: tuple[str, ...]


def main() -> int:
    """Compile, print the table, and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", nargs="+", type=int, choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument("--features", nargs="+", choices=configs.FEATURES, default=list(configs.FEATURES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--head-dims", nargs="+", type=int, default=HEAD_DIMS)
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    options = parser.parse_args()
    axes = product(options.capability, options.features, options.dtypes, options.head_dims)
    jobs = [(*job, options.tokens) for job in axes]
    rows: list[Row] = []
    print(HEADER)
    for found in _all(jobs, options.jobs):
        rows += found
        for row in found:
            print(row.line, flush=True)
    broken = [row for row in rows if row.problems]
    for row in broken:
        print(f"{row.name}:\n" + "".join(f"  {problem}\n" for problem in row.problems), end="")
    print(f"{len(rows)} programs, {len(broken)} over a limit")
    return 1 if broken else 0


def compile_job(job: Job) -> list[Row]:
    """Return the distinct programs of (capability, features, dtype, head dim, numbers of tokens)."""
    capability, features, dtype, head_dim, tokens = job
    rows: dict[str, Row] = {}
    with matmul_precision("high" if dtype == "tf32" else "highest"):
        # With few heads and with many, which have other kernels.
        for kernel in ("forward", "forward_whole"):
            calls = Problem(kernel, dtype, head_dim, configs.UNBOUNDED, features).calls(*tokens)
            for call in calls:
                for launch in launches_of(call, capability):
                    row = describe(compiled(launch, capability), f"{features} {dtype}", head_dim)
                    rows[row.line] = row
    return list(rows.values())


HEADER = f"{'sm':>3} {'kernel':34} {'inputs':12} {'D':>3} {'regs':>4} {'spill':>5} {'shared':>7} product / constants"


def describe(program: Program, inputs: str, head_dim: int) -> Row:
    """Return a program's row."""
    registers, spilled = program.usage
    arguments = program.launch.arguments
    shown = [f"{name}={value}" for name, value in arguments.items() if name.isupper() and name != "HEAD_DIM"]
    constants = " ".join([*shown, f"warps={arguments['num_warps']}", f"stages={arguments['num_stages']}"])
    name = f"sm_{program.capability} {program.launch.name} {inputs} D={head_dim} {constants}"
    line = (
        f"{program.capability:>3} {program.launch.name:34} {inputs:12} {head_dim:>3} {registers:>4} {spilled:>5} "
        f"{program.shared:>7} {program.product} {'!' if program.problems else ' '} {constants}"
    )
    return Row(line, name, program.problems)


def _all(jobs: list[Job], processes: int) -> Iterator[list[Row]]:
    if processes == 1:
        yield from map(compile_job, jobs)
        return
    # Spawned, not forked: torch has threads by now.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(compile_job, jobs)


if __name__ == "__main__":
    sys.exit(main())
