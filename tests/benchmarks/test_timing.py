"""What all benchmarks share: statistics, turns, budgets, and the stopwatch that waits behind a backlog."""

import pytest
import torch

from benchmarks import timing


def test_the_spread_is_the_median_and_the_middle_sixty_percent():
    assert timing.spread([5, 1, 4, 2, 3]) == timing.Spread(3, 2, 5, 5)
    assert timing.spread([7.0]) == timing.Spread(7.0, 7.0, 7.0, 1)
    values = [float(i) for i in range(100)]
    assert timing.spread(values[::-1]) == timing.Spread(49.5, 20.0, 80.0, 100)


def test_a_ratio_is_of_medians_and_its_range_of_pairs():
    found = timing.ratio(theirs=[3.0, 1.0, 2.0], ours=[1.0, 2.0, 4.0])
    assert found == timing.Spread(1.0, 0.5, 3.0, 3)


def test_candidates_take_turns_at_going_first():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.interleave(runs, 3, warm_up=1)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1.0] * 8, True),
        ([1.0] * 7, False),
        ([1.1, 1.1, 1.1, 1.1, 1.0, 1.0, 1.0, 1.0], False),
        ([9.0] + [1.0] * 8, True),
    ],
)
def test_times_have_settled_when_the_last_are_like_those_before(times, expected):
    assert timing.settled(times) is expected


def test_so_many_input_sets_that_twice_the_cache_passes():
    cache = 60 * 2**20
    # ViT-B, batch 128: q, k and v are 116 MB, so two sets do.
    assert timing.sets_needed(3 * 128 * 197 * 768 * 2, cache) == 3
    assert timing.sets_needed(cache, cache) == 3
    assert (timing.sets_needed(50_000, cache) - 1) * 50_000 >= 2 * cache


def test_nothing_is_started_after_the_budget_and_what_is_left_is_known():
    clock = iter([0.0, 1.0, 5.0, 10.0])
    found = list(timing.within_budget("abcdef", 10, now=lambda: next(clock)))
    assert found == [("a", "bcdef"), ("b", "cdef")]


class Recorder:
    """A stopwatch that notes who was called with which inputs, and says that the first call of all was slow."""

    def __init__(self):
        self.seen = []

    def measure(self, run, first, calls):
        self.seen += [(run(i), i) for i in range(first, first + calls)]
        return 1.0


def test_no_candidate_finds_inputs_that_another_has_just_read():
    stopwatch = Recorder()
    runs = {"a": lambda i: "a", "b": lambda i: "b"}
    times = timing.compare(
        runs, stopwatch, calls={"a": 2, "b": 3}, seconds=0, min_rounds=4, max_rounds=9, warm_up=(0, 0)
    )
    assert [i for _, i in stopwatch.seen] == list(range(5 * 5))
    assert "".join(name for name, _ in stopwatch.seen) == "aabbb" + "aabbb" + "bbbaa" + "aabbb" + "bbbaa"
    assert times == {"a": [1.0] * 4, "b": [1.0] * 4}


def test_who_waits_for_the_gpu_is_named():
    class Impatient:
        def measure(self, run, first, calls):
            if run(first) == "b":
                raise timing.HostBound("waits")
            return 1.0

    runs = {"a": lambda i: "a", "b": lambda i: "b"}
    with pytest.raises(timing.HostBound) as caught:
        timing.compare(runs, Impatient(), calls={"a": 1, "b": 1}, seconds=0, min_rounds=1, max_rounds=1)
    assert caught.value.name == "b"


class FakeGpu:
    """A GPU that sleeps as it is told, at 2 GHz, and reaches a burst `host_seconds` after its first call was queued."""

    def __init__(self, monkeypatch, host_seconds):
        self.sleeps = []
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: self)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.sleeps.append(cycles / 2e9))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        self.host_seconds = host_seconds

    def record(self):
        pass

    synchronize = record

    def query(self):
        return self.sleeps[-1] < self.host_seconds

    def elapsed_time(self, end):
        return 0.03  # milliseconds


def test_a_burst_that_the_gpu_reached_too_early_is_repeated_behind_a_longer_sleep(monkeypatch):
    gpu = FakeGpu(monkeypatch, host_seconds=1e-3)
    stopwatch = timing.CudaStopwatch()
    run = lambda i: None  # noqa: E731
    assert stopwatch.calibrate(run) == 20  # 10 us a call, 200 us a burst
    stopwatch._host_seconds[run] = 1e-5
    assert stopwatch.measure(run, 0, 20) == pytest.approx(1.5e-6)
    assert [round(sleep * 1e6) for sleep in gpu.sleeps] == [420, 840, 1680]


def test_a_call_that_waits_for_the_gpu_cannot_be_timed_behind_a_backlog(monkeypatch):
    FakeGpu(monkeypatch, host_seconds=1e9)
    stopwatch = timing.CudaStopwatch()
    run = lambda i: None  # noqa: E731
    stopwatch.calibrate(run)
    with pytest.raises(
        timing.HostBound, match=r"the host had not queued 20 calls after 0\.5 s: the call waits for the GPU"
    ):
        stopwatch.measure(run, 0, 20)
