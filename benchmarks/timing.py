"""Timing in turns: what every benchmark here shares.

Candidates take turns call by call (on a GPU, burst by burst where a call is short), so that drift of the machine falls
on all of them; who goes first rotates. On a GPU a burst waits behind a kernel that only sleeps until the host has
queued all of it, so that its events see the GPU's time and not Python's. Calls walk through a ring of input sets that
is larger than the cache.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

# Bytes of input that pass before a set comes round again, in caches.
COLD_FACTOR = 2
BURST_SECONDS = 200e-6
MAX_BURST = 64
SLEEP_CYCLES_PER_SECOND = 2e9
MAX_SLEEP_SECONDS = 0.5
Item = TypeVar("Item")


@dataclass(frozen=True)
class Spread:
    """The median of some samples, and where their middle 60 % lies."""

    median: float
    low: float
    high: float
    samples: int


class HostBound(RuntimeError):  # noqa: N818
    """A burst that the host could not queue before the GPU reached it: its time would be the host's."""

    name = ""  # of the candidate, where there are several


class Stopwatch(Protocol):
    """How long a call takes on a device."""

    def calibrate(self, run: Callable[[int], object]) -> int:
        """Return how many calls a sample should have."""

    def measure(self, run: Callable[[int], object], first: int, calls: int) -> float:
        """Return the seconds of one call, the mean of `calls` calls run(first), run(first + 1) and so on."""


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the 20 to 80 % range of at least one value."""
    ordered = sorted(values)
    low, high = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.2, 0.8))
    return Spread(statistics.median(ordered), low, high, len(ordered))


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Return the ratio of medians, with the range of the paired ratios of one round each."""
    paired = spread([a / b for a, b in zip(theirs, ours, strict=True)])
    return Spread(statistics.median(theirs) / statistics.median(ours), paired.low, paired.high, paired.samples)


def interleave(runs: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2) -> dict[str, list[float]]:
    """Return the host seconds of every call, `rounds` of each; who goes first rotates, the warm-up is not kept."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds + warm_up):
            for name in rotated(list(runs), turn):
                start = time.perf_counter()
                runs[name]()
                seconds = time.perf_counter() - start
                if turn >= warm_up:
                    times[name].append(seconds)
    finally:
        gc.enable()
    return times


def within_budget(
    items: Sequence[Item], seconds: float, *, now: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Item, Sequence[Item]]]:
    """Yield each item and those after it, until the time is up."""
    start = now()
    for i, item in enumerate(items):
        if now() - start >= seconds:
            return
        yield item, items[i + 1 :]


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names, starting with another one each turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def sets_needed(bytes_per_set: int, cache_bytes: int) -> int:
    """Return how many input sets must take turns so that none is in the cache when it comes round again."""
    return 1 + math.ceil(COLD_FACTOR * cache_bytes / bytes_per_set)


def settled(times: Sequence[float], *, window: int = 4, tolerance: float = 0.02) -> bool:
    """Whether the last times are no faster or slower than those before them: clocks have stopped moving."""
    if len(times) < 2 * window:
        return False
    before, after = statistics.median(times[-2 * window : -window]), statistics.median(times[-window:])
    return abs(after / before - 1) <= tolerance


def compare(
    runs: Mapping[str, Callable[[int], object]],
    stopwatch: Stopwatch,
    *,
    calls: Mapping[str, int],
    seconds: float,
    min_rounds: int,
    max_rounds: int,
    warm_up: tuple[float, float] = (0.1, 1.0),
) -> dict[str, list[float]]:
    """Time candidates in turns, after a warm-up until the first one's times have settled.

    Args:
        runs: candidates by name; each takes the number of a call, which says which input set it reads.
        stopwatch: of the device; it has calibrated every candidate.
        calls: how many calls a sample of each candidate has, as the stopwatch said.
        seconds: about how long to measure.
        min_rounds: samples of each candidate at least, however long that takes.
        max_rounds: samples at most.
        warm_up: seconds it takes at least, and at most even if times still move.

    Returns:
        The seconds of a call, one sample of each candidate and round.

    Raises:
        HostBound: the GPU waited for the host; `name` says with which candidate.
    """
    names = list(runs)
    position = 0
    times: dict[str, list[float]] = {name: [] for name in names}

    def one_round(turn: int) -> None:
        nonlocal position
        for name in rotated(names, turn):
            try:
                times[name].append(stopwatch.measure(runs[name], position, calls[name]))
            except HostBound as error:
                error.name = name
                raise
            # The next candidate goes on where this one stopped: it would find warm what was just read.
            position += calls[name]

    gc.collect()
    gc.disable()
    try:
        start, rounds, elapsed = time.perf_counter(), 0, 0.0
        while rounds == 0 or elapsed < warm_up[0] or (elapsed < warm_up[1] and not settled(times[names[0]])):
            one_round(rounds)
            rounds, elapsed = rounds + 1, time.perf_counter() - start
        per_round = elapsed / rounds
        rounds = min(max(int(seconds / per_round), min_rounds), max_rounds)
        times = {name: [] for name in names}
        for turn in range(rounds):
            one_round(turn)
    finally:
        gc.enable()
    return times


class HostStopwatch:
    """Times calls that end on the host: a CPU's."""

    def calibrate(self, run: Callable[[int], object]) -> int:
        """Return 1, after one call that warms up."""
        run(0)
        return 1

    def measure(self, run: Callable[[int], object], first: int, calls: int) -> float:
        """Return the mean seconds of the calls."""
        start = time.perf_counter()
        for i in range(first, first + calls):
            run(i)
        return (time.perf_counter() - start) / calls


class CudaStopwatch:
    """Times calls on a GPU with events, behind a backlog that the host needs no longer than the sleep to queue."""

    def __init__(self) -> None:
        # Host seconds of a call, by candidate.
        self._host_seconds: dict[Callable[[int], object], float] = {}

    def calibrate(self, run: Callable[[int], object]) -> int:
        """Return how many calls fill a burst, after calls that compile and warm up."""
        for i in range(2):
            run(i)
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        start.record()
        for i in range(3):
            run(i)
        self._host_seconds[run] = (time.perf_counter() - began) / 3
        end.record()
        end.synchronize()
        seconds = start.elapsed_time(end) * 1e-3 / 3
        return min(max(math.ceil(BURST_SECONDS / seconds), 1), MAX_BURST)

    def measure(self, run: Callable[[int], object], first: int, calls: int) -> float:
        """Return the mean seconds of the calls.

        Raises:
            HostBound: the GPU reached the burst before the host had queued it, whatever the sleep.
        """
        sleep = 2 * self._host_seconds[run] * calls + 20e-6
        while sleep < MAX_SLEEP_SECONDS:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(sleep * SLEEP_CYCLES_PER_SECOND))
            start.record()
            for i in range(first, first + calls):
                run(i)
            end.record()
            overtaken = start.query()
            end.synchronize()
            if not overtaken:
                return start.elapsed_time(end) * 1e-3 / calls
            sleep *= 2
            # For good, but by less: one hiccup of the host must not make all later samples slow to take.
            self._host_seconds[run] *= 1.2
        raise HostBound(
            f"the host had not queued {calls} calls after {MAX_SLEEP_SECONDS} s: the call waits for the GPU inside"
        )
