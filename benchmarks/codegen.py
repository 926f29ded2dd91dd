"""Every configuration that ships, compiled ahead of time: registers, spills, shared memory, instructions. No GPU.

    python -m benchmarks.codegen [--capability 80 90 100 120] [--dtypes bf16] [--head-dims 64 72] [--tokens 197]

Prints a row for every distinct program and exits with 1 when one breaks a limit, with the reasons below the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks import kernels

# Bytes of shared memory that one program may have, by compute capability.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
REGISTERS = 65536
Job = tuple[int, str, int, list[int]]
# ptxas: asynchronous products that it makes wait for each other.
SERIALIZED = re.compile(r"C75(?:10|15)|serializ", re.IGNORECASE)
# Loads of one 16-bit element; a whole row is read sixteen bytes at a time.
NARROW_LOAD = re.compile(r"(?:ld\.global\S*\.[bu]16\s|cp\.async\S*\.[bu]16)")


@dataclass(frozen=True)
class Program:
    """What the compiler made of one launch."""

    capability: int
    kernel: str
    dtype: str
    head_dim: int
    config: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    instruction: str
    narrow_loads: int
    serialized: int
    problems: tuple[str, ...]


def main() -> int:
    """Compile, print the table, and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", nargs="+", type=int, choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument("--dtypes", nargs="+", choices=kernels.DTYPES, default=list(kernels.DTYPES))
    parser.add_argument("--head-dims", nargs="+", type=int, default=kernels.HEAD_DIMS)
    parser.add_argument("--tokens", nargs="+", type=int, default=kernels.TOKENS)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile")
    options = parser.parse_args()
    jobs = [(*job, options.tokens) for job in product(options.capability, options.dtypes, options.head_dims)]
    programs: list[Program] = []
    print(HEADER)
    for compiled in _all(jobs, options.jobs):
        programs += compiled
        for program in compiled:
            print(line(program), flush=True)
    broken = [program for program in programs if program.problems]
    for program in broken:
        print(f"sm_{program.capability} {program.kernel} {program.dtype} D={program.head_dim} {program.config}:")
        print("".join(f"  {problem}\n" for problem in program.problems), end="")
    print(f"{len(programs)} programs, {len(broken)} over a limit")
    return 1 if broken else 0


def compile_job(job: Job) -> list[Program]:
    """Return the distinct programs of (capability, dtype, head dim, several numbers of tokens)."""
    capability, dtype, head_dim, _ = job
    return [inspect(launch, capability, dtype, head_dim) for launch in kernels.shipped_launches(*job)]


def inspect(launch: kernels.Launch, capability: int, dtype: str, head_dim: int) -> Program:
    """Return what a compiled kernel needs and does, and which limits that breaks."""
    log, ptx = launch.log, launch.program.asm["ptx"]
    facts: dict[str, Any] = {
        "registers": max(numbers(r"Used (\d+) registers", log)),
        # A spilled register lies on the stack; these kernels have no other use for one.
        "spill_bytes": max(numbers(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log)),
        "shared_bytes": launch.program.metadata.shared,
        "instruction": next((name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in ptx), "-"),
        "narrow_loads": len(NARROW_LOAD.findall(ptx)),
        "serialized": sum(bool(SERIALIZED.search(said)) for said in log.splitlines()),
    }
    problems = broken_limits(
        facts, capability, num_warps=launch.num_warps, needs_tensor_cores=launch.tensor_cores and "16" in dtype
    )
    return Program(capability, launch.name, dtype, head_dim, launch.config, **facts, problems=tuple(problems))


def broken_limits(facts: dict[str, Any], capability: int, *, num_warps: int, needs_tensor_cores: bool) -> Iterator[str]:
    """Yield a sentence for every limit that a program breaks."""
    if facts["spill_bytes"]:
        yield f"spills {facts['spill_bytes']} bytes of registers"
    if facts["registers"] * num_warps * 32 > REGISTERS:
        yield f"{facts['registers']} registers x {num_warps} warps pass the {REGISTERS} of a multiprocessor"
    if facts["shared_bytes"] > SHARED_LIMIT[capability]:
        yield f"{facts['shared_bytes']} bytes of shared memory pass the {SHARED_LIMIT[capability]} of sm_{capability}"
    if needs_tensor_cores and facts["instruction"] != TENSOR_CORE[capability]:
        yield f"multiplies with {facts['instruction']}, not with {TENSOR_CORE[capability]}"
    if facts["narrow_loads"]:
        yield f"{facts['narrow_loads']} loads of a single 16-bit element"
    if facts["serialized"]:
        yield f"ptxas serializes {facts['serialized']} asynchronous products"


def numbers(pattern: str, text: str) -> list[int]:
    """Return every number that a pattern's group finds."""
    return [int(found) for found in re.findall(pattern, text)]


HEADER = (
    f"{'sm':>3} {'kernel':34} {'dtype':5} {'D':>3} {'regs':>4} {'spill':>5} {'shared':>7} {'narrow':>6} {'serial':>6} "
    "product / config"
)


def line(program: Program) -> str:
    """Return one row of the table."""
    mark = "!" if program.problems else " "
    return (
        f"{program.capability:>3} {program.kernel:34} {program.dtype:5} {program.head_dim:>3} {program.registers:>4} "
        f"{program.spill_bytes:>5} {program.shared_bytes:>7} {program.narrow_loads:>6} {program.serialized:>6} "
        f"{program.instruction} {mark} {program.config}"
    )


def _all(jobs: list[Job], processes: int) -> Iterator[list[Program]]:
    if processes == 1:
        yield from map(compile_job, jobs)
        return
    # Spawned, not forked: torch has threads by now.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(compile_job, jobs)


if __name__ == "__main__":
    sys.exit(main())
