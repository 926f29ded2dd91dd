"""vitzoo's attention against PyTorch's and others', at the shapes of Vision Transformers.

    python -m benchmarks.attention --suite vit [--dtype bf16] [--budget-s 540] [--out FILE [--resume]]
    python -m benchmarks.attention --suite launch [--out FILE]
    TRITON_INTERPRET=1 python -m benchmarks.attention --device cpu --dtype fp32 --quick

The suite "vit" times forward, backward and both, what matters most first, until the budget is spent; "launch" times
what a call costs the host. Each candidate is held against float64 before it is timed. Where vitzoo is wrong, nothing is
printed but the errors, and the exit status is 1; a peer that is wrong or cannot run is recorded with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import kernels, launch_cost, machine, peers, records, shapes, timing
from benchmarks.calls import InputSets, draw_inputs, make_call
from benchmarks.correct import Judge

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# At least and at most so many samples, for so many seconds; and seconds of warm-up.
FULL: dict[str, Any] = {"min_rounds": 9, "max_rounds": 31, "seconds": 0.6, "warm_up": (0.1, 1.0)}
QUICK: dict[str, Any] = {"min_rounds": 3, "max_rounds": 3, "seconds": 0.0, "warm_up": (0.0, 0.0)}


def main() -> int:
    """Run a suite, write its JSON, print its table, and return the exit status."""
    options = parse()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = DTYPES[options.dtype]
    record: dict[str, Any] = {
        "suite": options.suite,
        "dtype": options.dtype,
        "quick": options.quick,
        "without": options.without,
        "machine": machine.describe(device, commit=options.commit),
        "rows": [],
        "wrong": [],
        "begun": [],
        "not_run": [],
        "clocks": {},
    }
    path = options.out / file_name(record) if options.out and options.out.is_dir() else options.out
    if options.resume and path.exists():
        record = resumed(path, record)

    def save() -> None:
        if path:
            records.write_json(path, record)

    with machine.ClockLog(device) as clocks:
        if options.suite == "launch":
            record["rows"] = launch_cost.measure(options.peers, dtype, device, quick=options.quick)
        else:
            record["peaks"] = {
                "measured": machine.measure_peaks(device, dtype),
                "datasheet": machine.datasheet_peaks(record["machine"]["device"]),
            }
            with kernels.without(options.without):
                run_vit(options, dtype, device, record, save)
    record["clocks"] = clocks.summary
    save()
    if record["wrong"]:
        for message in record["wrong"]:
            print(message, file=sys.stderr)
        return 1
    print("\n".join(launch_cost.lines(record) if options.suite == "launch" else lines(record)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("vit", "launch"), default="vit")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: the GPU when there is one")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, a few samples: shows that it runs")
    parser.add_argument("--budget-s", type=float, default=540, help="start no other shape after so many seconds")
    parser.add_argument("--peers", nargs="+", choices=peers.NAMES, default=peers.NAMES)
    parser.add_argument("--tokens", nargs="+", type=int, help="only these N")
    parser.add_argument("--head-dims", nargs="+", type=int, choices=shapes.HEAD_DIMS, help="only these D")
    parser.add_argument("--batches", nargs="+", type=int, help="only these B")
    parser.add_argument("--directions", nargs="+", choices=shapes.DIRECTIONS, default=shapes.DIRECTIONS)
    parser.add_argument(
        "--without", nargs="+", choices=kernels.WHOLE, default=[], help="let vitzoo do without these of its kernels"
    )
    parser.add_argument("--commit", help="what is measured, where this is no git checkout; -dirty at its end if so")
    parser.add_argument("--out", type=Path, help="write JSON, after every shape, to this file or folder")
    parser.add_argument("--resume", action="store_true", help="add to what is in that file, but for shapes begun there")
    options = parser.parse_args()
    if options.resume and not (options.out and options.suite == "vit"):
        parser.error("--resume goes on with a file of the suite vit: name it with --out")
    if peers.OURS not in options.peers:
        parser.error(f"ratios are against {peers.OURS}: name it among --peers")
    return options


def resumed(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an earlier run, to go on with; it lists the runs that it is put together from.

    Raises:
        ValueError: it is of another machine, commit, dtype or choice of kernels.
    """
    old: dict[str, Any] = json.loads(path.read_text())
    for name in ("device", "commit", "torch", "triton", "suite", "dtype", "quick", "without"):
        was, now = (record["machine"].get(name, record.get(name)) for record in (old, new))
        if was != now:
            raise ValueError(f"{path} is of {name} {was}, this run of {now}: name another --out, or leave out --resume")
    earlier = {name: old[name] for name in ("machine", "peaks", "clocks")}
    return old | {"machine": new["machine"], "earlier": [*old.get("earlier", []), earlier]}


def file_name(record: dict[str, Any]) -> str:
    """Return the name of a record's file: one for each suite, GPU, dtype and commit."""
    suite = {"vit": "attention", "launch": "launch"}[record["suite"]]
    device = record["machine"]["device"].lower().replace(" ", "-")
    without = "".join(f"-without-{name}" for name in record["without"])
    return f"{suite}-{device}-{record['dtype']}{without}-{record['machine']['commit']}.json"


def run_vit(
    options: argparse.Namespace,
    dtype: torch.dtype,
    device: torch.device,
    record: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Fill the record's rows, and say in it which shapes were wrong and which were not reached."""
    if options.quick:
        suite = [shapes.Shape(1, tokens, 2, 64) for tokens in options.tokens or (17, 65)]
    else:
        suite = shapes.vit_suite(
            tokens=options.tokens or shapes.TOKENS,
            head_dims=options.head_dims or shapes.HEAD_DIMS,
            batches=options.batches or shapes.BATCHES,
        )
    # A shape that ended an earlier run, whatever it was, must not end this one too.
    suite = [shape for shape in suite if str(shape) not in record["begun"]]
    record["not_run"] = [str(shape) for shape in suite]
    for shape, left in timing.within_budget(suite, options.budget_s):
        record["begun"].append(str(shape))
        save()
        sets = draw_inputs(
            shape, dtype, device, cache_bytes=record["machine"].get("cache_bytes", 0), seed=shape.tokens + shape.batch
        )
        usable, reasons = usable_peers(options.peers, shape, sets)
        if peers.OURS in reasons:
            record["wrong"].append(f"{peers.OURS} {shape} {options.dtype}: {reasons[peers.OURS]}")
        else:
            for direction in options.directions:
                try:
                    row = measure(usable, dict(reasons), shape, direction, sets, quick=options.quick)
                except RuntimeError as error:
                    reason = peers.why_not(error, [])
                    record["wrong"].append(f"{peers.OURS} {shape} {options.dtype} {direction}: {reason}")
                    continue
                record["rows"].append(with_roofline(row, shape, direction, dtype, record["peaks"]["measured"]))
        record["not_run"] = [str(shape) for shape in left]
        save()


def usable_peers(
    names: list[str], shape: shapes.Shape, sets: InputSets
) -> tuple[dict[str, peers.Peer], dict[str, str]]:
    """Return the peers that are right at this shape, and why the others are not among them."""
    usable: dict[str, peers.Peer] = {}
    reasons: dict[str, str] = {}
    judge = Judge(sets.qkv[0], sets.dout[0], shape)
    for name in names:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                peer = peers.make_peer(name, shape)
                judge.check(peer)
                usable[name] = peer
            except AssertionError as error:
                reasons[name] = f"wrong: {error}"
            except Exception as error:
                reasons[name] = peers.why_not(error, caught)
        release(sets)
    return usable, reasons


def measure(
    usable: dict[str, peers.Peer],
    reasons: dict[str, str],
    shape: shapes.Shape,
    direction: str,
    sets: InputSets,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Return one row: the times of all candidates, in turns, and why the missing ones are missing."""
    stopwatch = timing.CudaStopwatch() if sets.qkv[0].is_cuda else timing.HostStopwatch()
    runs: dict[str, Callable[[int], object]] = {}
    calls: dict[str, int] = {}
    for name, peer in usable.items():
        try:
            run = make_call(peer, direction, sets)
            calls[name] = stopwatch.calibrate(run)
            stopwatch.measure(run, 0, calls[name])
            runs[name] = run
        except (RuntimeError, torch.OutOfMemoryError) as error:
            if name == peers.OURS:
                raise
            reasons[name] = peers.why_not(error, [])
            release(sets)
    times = compare(runs, stopwatch, calls, reasons, quick=quick)
    candidates: dict[str, Any] = {}
    for name, seconds in times.items():
        spread = timing.spread(seconds)
        ratio = timing.ratio(seconds, times[peers.OURS])
        candidates[name] = {
            "median_us": spread.median * 1e6,
            "low_us": spread.low * 1e6,
            "high_us": spread.high * 1e6,
            "samples": spread.samples,
            "calls_per_sample": calls[name],
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
        if detail := usable[name].detail(*sets.qkv[0].unbind(2)):
            candidates[name]["ran"] = detail
    candidates |= {name: {"reason": reason} for name, reason in reasons.items()}
    return {
        "direction": direction,
        "batch": shape.batch,
        "tokens": shape.tokens,
        "heads": shape.heads,
        "head_dim": shape.head_dim,
        "input_sets": len(sets.qkv),
        "cold": sets.cold,
        "candidates": candidates,
    }


def compare(
    runs: dict[str, Callable[[int], object]],
    stopwatch: timing.Stopwatch,
    calls: dict[str, int],
    reasons: dict[str, str],
    *,
    quick: bool,
) -> dict[str, list[float]]:
    """Return the samples of all candidates; one that turns out to wait for the GPU is left out, with its reason."""
    while True:
        try:
            return timing.compare(runs, stopwatch, calls=calls, **(QUICK if quick else FULL))
        except timing.HostBound as error:
            if error.name == peers.OURS:
                raise
            reasons[error.name] = str(error)
            del runs[error.name]


def with_roofline(
    row: dict[str, Any], shape: shapes.Shape, direction: str, dtype: torch.dtype, peaks: dict[str, float]
) -> dict[str, Any]:
    """Add what the call must do, the least time that takes at the measured peaks, and each candidate's share of it."""
    least = shapes.cost(shape, direction, dtype.itemsize)
    floor = least.floor(peaks) * 1e6
    row |= {"bytes": least.bytes, "flops": least.flops, "floor_us": floor, "bound": least.bound(peaks)}
    for candidate in row["candidates"].values():
        if "median_us" in candidate:
            candidate["roofline"] = floor / candidate["median_us"]
            candidate["tflops"] = least.flops / candidate["median_us"] * 1e-6
    return row


def release(sets: InputSets) -> None:
    """Give back what a failed candidate held; raise if it has broken the GPU for all that follow."""
    if sets.qkv[0].is_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def lines(record: dict[str, Any]) -> list[str]:
    """Return the table that is printed: every row, each peer's time over vitzoo's."""
    measured = record["peaks"]["measured"]
    names = list(dict.fromkeys(name for row in record["rows"] for name, c in row["candidates"].items() if "ratio" in c))
    others = [name for name in names if name != peers.OURS]
    temperature = "cold" if all(row["cold"] for row in record["rows"]) else "warm"
    found = [
        f"{record['machine']['device']}, {record['dtype']}, {temperature} inputs. Each peer: its time over vitzoo's.",
        f"Peaks measured here: {measured['bytes_per_s'] / 1e12:.2f} TB/s (copy), "
        f"{measured['flops_per_s'] / 1e12:.0f} TFLOP/s (matrix product); "
        f"by the data sheet: {json.dumps(record['peaks']['datasheet'])}",
        f"{'direction':9} {'B':>4} {'N':>5} {'H':>3} {'D':>4} {'us':>9} {'20-80 %':>19} {'share':>6} of "
        + "".join(f"{name:>11}" for name in others),
    ]
    for row in record["rows"]:
        ours = row["candidates"][peers.OURS]
        ratios = [row["candidates"].get(name, {}).get("ratio") for name in others]
        found.append(
            f"{row['direction']:9} {row['batch']:4} {row['tokens']:5} {row['heads']:3} {row['head_dim']:4} "
            f"{ours['median_us']:9.1f} {ours['low_us']:9.1f}-{ours['high_us']:9.1f} {ours['roofline']:6.0%} "
            f"{row['bound'][:3]} " + "".join(f"{'-':>11}" if ratio is None else f"{ratio:10.2f}x" for ratio in ratios)
        )
    reasons = {
        f"{name}: {c['reason']}": None
        for row in record["rows"]
        for name, c in row["candidates"].items()
        if "reason" in c
    }
    if reasons:
        found += ["not timed, somewhere:", *(f"  {reason}" for reason in reasons)]
    if record["not_run"]:
        found += [f"{len(record['not_run'])} shapes not reached:", "  " + ", ".join(record["not_run"])]
    return found


if __name__ == "__main__":
    sys.exit(main())
