"""What one call costs the host: microseconds until it returns, with nobody waiting for the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import kernels, peers, timing
from benchmarks.calls import draw_inputs
from benchmarks.correct import Judge
from benchmarks.shapes import Shape

# Few enough that the GPU's queue, of about a thousand launches, never fills and makes the host wait.
CALLS = 100
SHAPE = Shape(batch=1, tokens=50, heads=12, head_dim=64)


def measure(names: Sequence[str], dtype: torch.dtype, device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """Return a row for forward without gradients, forward that keeps what backward needs, and forward and backward."""
    shape = Shape(batch=1, tokens=17, heads=1, head_dim=16) if quick else SHAPE
    sets = draw_inputs(shape, dtype, device, cache_bytes=0, seed=shape.tokens)
    qkv = sets.qkv[0]
    rounds, calls = (3, 2) if quick else (31, CALLS)
    judge = Judge(qkv, sets.dout[0], shape)
    usable: list[peers.Peer] = []
    reasons: dict[str, str] = {}
    for name in names:
        try:
            peer = peers.make_peer(name, shape)
            judge.check(peer)
            usable.append(peer)
        except (peers.Unavailable, RuntimeError, AssertionError) as error:
            if name == peers.OURS:
                raise
            reasons[name] = peers.why_not(error, [])
    rows = []
    for direction in ("forward", "forward, training", "forward and backward"):
        runs: dict[str, Callable[[], object]] = {peer.name: make_run(peer, direction, qkv) for peer in usable}
        if direction == "forward" and qkv.is_cuda:
            runs["bare launch"] = kernels.bare_forward(*qkv.unbind(2))
        times = host_times(runs, device, rounds=rounds, calls=calls)
        candidates: dict[str, Any] = {name: microseconds(seconds) for name, seconds in times.items()}
        candidates |= {name: {"reason": reason} for name, reason in reasons.items()}
        rows.append({"direction": direction, "shape": str(shape), "candidates": candidates})
    return rows


def make_run(peer: peers.Peer, direction: str, qkv: Tensor) -> Callable[[], object]:
    """Return one eager call of a peer."""
    views = [x.detach().requires_grad_(direction != "forward") for x in qkv.unbind(2)]
    if direction != "forward and backward":
        return lambda: peer.attend(*views)
    dout = torch.randn_like(qkv[:, :, 0])
    return lambda: torch.autograd.grad(peer.attend(*views), views, dout)


def host_times(
    runs: dict[str, Callable[[], object]], device: torch.device, *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return the host seconds of a call, one mean of `calls` calls for each round; candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name in timing.rotated(list(runs), turn):
            start = time.perf_counter()
            for _ in range(calls):
                runs[name]()
            seconds = (time.perf_counter() - start) / calls
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times[name].append(seconds)
    return times


def microseconds(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 20 to 80 % range in microseconds."""
    spread = timing.spread(seconds)
    return {
        "median_us": spread.median * 1e6,
        "low_us": spread.low * 1e6,
        "high_us": spread.high * 1e6,
        "samples": spread.samples,
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Return the table that is printed."""
    found = [f"host microseconds per call on {record['machine']['device']}, {record['dtype']}, median (20-80 %)"]
    for row in record["rows"]:
        found.append(f"{row['direction']}, {row['shape']}")
        for name, c in row["candidates"].items():
            figures = c.get("reason") or f"{c['median_us']:9.1f} ({c['low_us']:.1f}-{c['high_us']:.1f})"
            found.append(f"  {name:12} {figures}")
    return found
