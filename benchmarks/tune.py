"""Choose tile sizes on a GPU and write them as the data that vitzoo_kernels ships.

    python -m benchmarks.tune [--dtypes bf16] [--head-dims 64 72] [--max-tokens 256 272] [--missing] [--out FILE]

For each kernel, dtype, head dim and bucket of lengths: candidates are compiled ahead of time in processes of their own,
those that break a limit (registers, spills, shared memory) are dropped, the rest is timed in turns, the best quarter is
checked against float64 and timed again for longer. What ships stays unless it is beaten by more than 1 %. One file per
compute capability and Triton minor version; a later run replaces the entries it has measured and keeps the others, such
as those that `benchmarks.choose` wrote without timing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

from benchmarks import kernels, machine, tables, timing
from benchmarks.ahead_of_time import compiled
from benchmarks.calls import draw_inputs, make_call
from benchmarks.choose import why_not
from benchmarks.correct import Judge
from benchmarks.peers import OURS, make_peer
from benchmarks.shapes import HEADS, Shape

# Whether a kernel for whole heads is better than those for tiles, `benchmarks.attention --without` can tell.
TUNED = ("forward", "forward_whole", "backward_whole", "backward_kv", "backward_q")
# What ships keeps its place against a rival that is no more than this share faster.
MARGIN = 0.01
BATCH = 128
Config = TypeVar("Config")
MACHINE = ("device", "driver", "cuda", "torch", "triton", "commit", "date")


def main() -> int:
    """Tune what the budget allows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=TUNED, default=list(TUNED))
    parser.add_argument("--dtypes", nargs="+", choices=kernels.DTYPES, default=["bf16"])
    parser.add_argument("--head-dims", nargs="+", type=int, choices=HEADS, default=list(HEADS))
    parser.add_argument("--max-tokens", nargs="+", type=int, choices=kernels.BUCKETS, default=list(kernels.BUCKETS))
    parser.add_argument("--missing", action="store_true", help="only what the file has no timed entry for yet")
    parser.add_argument("--budget-s", type=float, default=540, help="start no other entry after so many seconds")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--commit", help="what is tuned, where this is no git checkout; -dirty at its end if so")
    parser.add_argument("--out", type=Path, help="default: the file that ships for this GPU and Triton")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("tuning needs a CUDA GPU: there is none", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    described = machine.describe(device, commit=options.commit)
    capability = 10 * described["capability"][0] + described["capability"][1]
    path = options.out or tables.path_of(capability, triton.__version__)
    measured_on = {name: described.get(name) for name in MACHINE}
    problems = [
        kernels.Problem(kernel, dtype, head_dim, longest)
        for dtype, head_dim, longest, kernel in product(
            options.dtypes, options.head_dims, options.max_tokens, options.kernels
        )
        if longest in kernels.buckets(kernel)
    ]
    if options.missing:
        problems = [problem for problem in problems if not tables.is_timed(path, problem)]
    left: Sequence[kernels.Problem] = problems
    # Spawned, not forked: this process has a CUDA context.
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for problem, after in timing.within_budget(problems, options.budget_s):
            left = after
            tried = kernels.candidates(problem, capability)
            reasons = list(pool.map(prepare, repeat(problem), tried, repeat(capability)))
            fitting = [config for config, reason in zip(tried, reasons, strict=True) if reason is None]
            if not fitting:
                print(f"nothing to choose for {problem}: {reasons[0]}", flush=True)
                continue
            entry = tune(
                problem, fitting, device, cache_bytes=described["cache_bytes"], pruned=len(tried) - len(fitting)
            )
            tables.write_entries(path, [{**entry, "measured_on": measured_on}])
            print(entry_line(entry), flush=True)
    for problem in left:
        print(f"not reached: {problem}")
    return 0


def prepare(problem: kernels.Problem, tiles: Any, capability: int) -> str | None:
    """Return why tiles are not to be timed, or None once Triton's cache has what is launched with them."""
    reason = why_not(problem, tiles, capability)
    if reason is None:
        calls = kernels.timed_calls(shape_of(problem), kernels.DTYPES[problem.dtype])
        for launch in kernels.launches(problem, tiles, capability, calls):
            compiled(launch, capability)
    return reason


def shape_of(problem: kernels.Problem) -> Shape:
    """Return the shape at which a problem's tiles are timed."""
    return Shape(BATCH, problem.tokens, HEADS[problem.head_dim], problem.head_dim)


def tune(
    problem: kernels.Problem, configs: Sequence[Any], device: torch.device, *, cache_bytes: int, pruned: int
) -> dict[str, Any]:
    """Return the table's entry for a problem: the winner among configurations that fit, and how it did."""
    shape = shape_of(problem)
    peer = make_peer(OURS, shape)
    sets = draw_inputs(shape, kernels.DTYPES[problem.dtype], device, cache_bytes=cache_bytes, seed=0)
    judge = Judge(sets.qkv[0], sets.dout[0], shape)
    call = make_call(peer, problem.kernel.split("_")[0], sets)

    def run(config: Any) -> Callable[[int], object]:
        def configured(i: int) -> object:
            with kernels.configured(problem, config):
                return call(i)

        return configured

    def launches(config: Any) -> bool:
        try:
            run(config)(0)
        except Exception as error:
            print(f"cannot be launched: {problem} {config}: {error}", file=sys.stderr)
            return False
        return True

    def right(config: Any) -> bool:
        with kernels.configured(problem, config):
            try:
                judge.check(peer)
            except AssertionError as error:
                print(f"wrong: {problem} {config}: {error}", file=sys.stderr)
                return False
        return True

    def times(some: Sequence[Any], rounds: int) -> list[float]:
        runs = {str(i): run(config) for i, config in enumerate(some)}
        stopwatch = timing.CudaStopwatch()
        calls = {name: stopwatch.calibrate(run) for name, run in runs.items()}
        measured = timing.compare(
            runs, stopwatch, calls=calls, seconds=0, min_rounds=rounds, max_rounds=rounds, warm_up=(0.05, 0.5)
        )
        return [statistics.median(seconds) for seconds in measured.values()]

    launchable = [config for config in configs if launches(config)]
    winner, medians = search(launchable, times, right)
    return tables.entry_of(
        problem,
        winner,
        timed_at=f"{shape} {problem.dtype}",
        median_us=round(medians[winner] * 1e6, 2),
        shipped_us=round(medians[launchable[0]] * 1e6, 2) if launchable[0] in medians else None,
        timed=len(launchable),
        pruned=pruned + len(configs) - len(launchable),
    )


def search(
    configs: Sequence[Config],
    times: Callable[[Sequence[Config], int], list[float]],
    right: Callable[[Config], bool],
    *,
    margin: float = MARGIN,
) -> tuple[Config, dict[Config, float]]:
    """Return the fastest configuration, and the seconds of those that were timed to the end.

    Args:
        configs: what fits the GPU, the one that ships first.
        times: takes configurations and a number of rounds, and returns the median seconds of each, taken in turns.
        right: whether a configuration's results are right.
        margin: share by which the first must be beaten to lose its place.

    Raises:
        RuntimeError: none fits, or none is right.
    """
    if not configs:
        raise RuntimeError("no configuration fits the GPU: every one breaks a limit of its compiler")
    rough = dict(zip(configs, times(configs, 3), strict=True))
    kept = sorted(configs, key=rough.__getitem__)[: max(3, len(configs) // 4)]
    finalists = [config for config in dict.fromkeys([configs[0], *kept]) if right(config)]
    if not finalists:
        raise RuntimeError(f"none of {len(kept)} configurations gives right results")
    medians = dict(zip(finalists, times(finalists, 15), strict=True))
    best = min(finalists, key=medians.__getitem__)
    shipped = configs[0]
    if shipped in medians and medians[best] > medians[shipped] * (1 - margin):
        best = shipped
    return best, medians


def entry_line(entry: dict[str, Any]) -> str:
    """Return an entry as it is printed."""
    return (
        f"{entry['kernel']:12} {entry['products']:4} D={entry['head_dim']:<3} N<={entry['max_tokens']:<10} "
        f"{entry['median_us']:9.1f} us (shipped {entry['shipped_us']}) {entry['tiles']}; {entry['timed']} timed, "
        f"{entry['pruned']} pruned"
    )


if __name__ == "__main__":
    sys.exit(main())
