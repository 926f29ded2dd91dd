"""Compile what `benchmarks.attention` runs into Triton's cache, on all cores: nothing is compiled where time is short.

    python -m benchmarks.warm [--dtype bf16] [--tokens 197 257] [--head-dims 64] [--batches 128] [--jobs 16]

Without a GPU the programs are those of `--capability`; another machine finds them in a copy of Triton's cache if it has
the same build of Triton for the same Python.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Collection, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch

from benchmarks import kernels, shapes
from benchmarks.ahead_of_time import SHARED_LIMIT, Call, compiled, launches_of, same_program

# A call, the kernels it does without, the compute capability, and which of its launches.
Job = tuple[Call, tuple[str, ...], int, int]
DTYPES = ("bf16", "fp16", "fp32")


def main() -> None:
    """Compile and say how many programs there are and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tokens", nargs="+", type=int, default=shapes.TOKENS)
    parser.add_argument("--head-dims", nargs="+", type=int, choices=shapes.HEAD_DIMS, default=shapes.HEAD_DIMS)
    parser.add_argument("--batches", nargs="+", type=int, default=shapes.BATCHES)
    parser.add_argument("--capability", type=int, choices=SHARED_LIMIT, help="default: that of the GPU here, or 90")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    options = parser.parse_args()
    suite = shapes.vit_suite(tokens=options.tokens, head_dims=options.head_dims, batches=options.batches)
    capability = options.capability or _capability()
    started = time.monotonic()
    # Spawned, not forked: torch has threads by now.
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # As they are, and with the kernels that run in place of those for whole heads.
        jobs = programs(suite, options.dtype, capability, ((), kernels.WHOLE))
        compiling = [pool.submit(compile_job, job) for job in jobs]
        for done in as_completed(compiling):
            done.result()
    print(f"{len(compiling)} programs for sm_{capability} in {time.monotonic() - started:.0f} s")


def programs(
    suite: Sequence[shapes.Shape], dtype: str, capability: int, without: Sequence[Collection[str]]
) -> Iterator[Job]:
    """Yield every distinct program once, in the order of the shapes."""
    seen: set[Hashable] = set()
    for shape in suite:
        for names in without:
            calls = kernels.timed_calls(shape, kernels.DTYPES[dtype])
            # The forward is timed without gradients, and then writes no lse.
            for call in [*calls, *(replace(call, lse=False) for call in calls)]:
                with kernels.without(names):
                    found = launches_of(call, capability)
                for i, launch in enumerate(found):
                    key = same_program(launch, capability)
                    if key not in seen:
                        seen.add(key)
                        yield call, tuple(names), capability, i


def compile_job(job: Job) -> str:
    """Compile one program and return its key in Triton's cache."""
    call, names, capability, i = job
    with kernels.without(names):
        return str(compiled(launches_of(call, capability)[i], capability).compiled.hash)


def _capability() -> int:
    if not torch.cuda.is_available():
        return 90
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


if __name__ == "__main__":
    main()
