"""All that a GPU which is lent for a short time is for: check, then measure, what matters most first.

    python -m benchmarks.gpu --out DIR [--budget-s 540] [--commit ID] [--skip STEP ...] [--steps STEP ...]

Every step is a process of its own that is stopped when its time is over, and none that fails stops the next. Results
are JSON files in DIR, written as they come; `summary.json` says how each step ended and `logs.txt` has what all of them
printed. A later call with the same DIR runs what was not reached, and goes on with what is never finished.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import ROOT, read_commit, write_json

# A step with less time than this is not started, and one that measures is told to end as much earlier than it must.
LEAST_SECONDS = 30
# Between being asked to end and being ended.
GRACE_SECONDS = 10
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    # A pool of compilers in each process would take longer to start than there is to compile.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    # Plugins of pytest that happen to be installed add their own warnings and options.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
# Another version's warnings are no failures here: they are shown. Each test compiles, so there is a worker a core.
PYTEST = (
    "-m pytest -m gpu -p xdist.plugin -n {cores} --dist worksteal -p no:cacheprovider -W default -v --tb=short "
    "--continue-on-collection-errors"
)
KERNEL_TESTS = "tests/vitzoo_kernels/test_gpu.py tests/vitzoo_kernels/test_conformance.py"
# ViT's and DINO's lengths, at batches that fill a GPU.
KEY_SHAPES = "--head-dims 64 --tokens 197 257 261 577 --batches 128 32"
# All but FlexAttention, which is compiled for every shape.
PEERS = "--peers vitzoo sdpa cudnn flash efficient flash-attn fa3 xformers"
MEASURES = "--budget-s {budget} --commit={commit} --out {out}"
ATTENTION = f"-m benchmarks.attention {MEASURES}"
TILES = f"-m benchmarks.tune --head-dims 64 --missing --jobs {{cores}} {MEASURES}/tiles.json"


@dataclass(frozen=True)
class Step:
    """One process.

    Args:
        name: what it is called.
        seconds: how long it may take.
        arguments: Python's, with places for `out`, `cores`, `commit` and `budget`.
        unending: whether a later call goes on with it.
    """

    name: str
    seconds: float
    arguments: str
    unending: bool = False


STEPS = (
    Step("doctor", 40, "-m vitzoo doctor"),
    Step("warm", 60, "-m benchmarks.warm --jobs {cores}"),
    Step("tests", 150, f"{PYTEST} -k not(sanitizer) {KERNEL_TESTS}"),
    Step("attention", 130, f"{ATTENTION}/attention.json --resume {KEY_SHAPES} {PEERS}"),
    Step(
        "without",
        60,
        f"{ATTENTION}/without.json {KEY_SHAPES} --directions forward backward --peers vitzoo sdpa "
        "--without forward_whole backward_whole",
    ),
    Step("launch", 45, f"{ATTENTION}/launch.json --suite launch {PEERS}"),
    Step("model", 80, f"-m benchmarks.model --gpu --modes eager {MEASURES}/model.json"),
    Step("rest", 150, f"{ATTENTION}/attention.json --resume {PEERS}", unending=True),
    # One program a head up to 272 keys, one a tile beyond.
    Step("tiles", 120, f"{TILES} --kernels forward_whole backward_whole --max-tokens 256 272", unending=True),
    Step("flex", 80, f"{ATTENTION}/flex.json {KEY_SHAPES} --batches 128 --peers vitzoo flex"),
    Step("sanitizer", 120, f"{PYTEST} -k sanitizer {KERNEL_TESTS}"),
    Step("others", 120, f"{PYTEST} tests/plugins/test_flex.py tests/vitzoo/test_compat.py"),
    Step("more tiles", 120, f"{TILES} --kernels forward backward_kv backward_q --max-tokens 768", unending=True),
)


def main(steps: Sequence[Step] = STEPS) -> int:
    """Run what there is time for and return 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [step.name for step in steps]
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, made if missing")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds for all steps together")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="leave these out")
    parser.add_argument("--steps", nargs="+", choices=names, help="these alone, though they may have run before")
    parser.add_argument("--commit", help="what is measured, where this is no git checkout; -dirty at its end if so")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Whoever starts this in the background may have Ctrl-C ignored, and every step would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + options.budget_s
    path = options.out / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"steps": []}
    values = {
        "out": str(options.out.resolve()),
        "cores": str(os.cpu_count()),
        "commit": options.commit or read_commit(),
    }
    failed = False
    for step in todo(steps, summary["steps"], chosen=options.steps, skipped=options.skip):
        seconds = min(step.seconds, deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            continue
        result = run(step, seconds, values, options.out)
        summary["steps"].append(result)
        write_json(path, summary)
        print(
            f"{step.name:12} {result['ended']:28} {result['seconds']:5.0f} s  {''.join(result['tail'][-1:])}",
            flush=True,
        )
        failed |= result["ended"] != "exit status 0"
        if step.name == "attention" and not rows(options.out / "attention.json"):
            print("attention measured nothing: stopped, as what follows would not either; --steps goes on all the same")
            break
    reached = {result["step"] for result in summary["steps"]}
    print("not reached:", ", ".join(name for name in names if name not in reached) or "nothing")
    return 1 if failed else 0


def todo(
    steps: Sequence[Step], results: Sequence[Mapping[str, Any]], *, chosen: Sequence[str] | None, skipped: Sequence[str]
) -> list[Step]:
    """Return what to run: what was chosen, or what never ran and then what never ends."""
    if chosen is not None:
        return [step for step in steps if step.name in chosen]
    ran = {result["step"] for result in results}
    left = [step for step in steps if step.name not in skipped and (step.name not in ran or step.unending)]
    return sorted(left, key=lambda step: step.name in ran)


def run(step: Step, seconds: float, values: Mapping[str, str], out: Path) -> dict[str, Any]:
    """Run a step for so many seconds at most, and return how it ended."""
    budget = max(seconds - LEAST_SECONDS, 1)
    command = [sys.executable, *(word.format(budget=budget, **values) for word in step.arguments.split())]
    places = [str(ROOT), *(str(ROOT / folder) for folder in ("kernels", "plugins")), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    log = out / "logs.txt"
    with log.open("ab") as file:
        file.write(f"\n==== {step.name}: {' '.join(command[1:])}\n".encode())
        file.flush()
        begin, started = file.tell(), time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended = f"exit status {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
            # As Ctrl-C, to workers too, for which pytest-xdist would wait 10 s: pytest then says what it has.
            os.killpg(process.pid, signal.SIGINT)
        finally:
            _end(process)
    with log.open("rb") as file:
        file.seek(begin)
        tail = file.read().decode(errors="replace").splitlines()[-15:]
    return {"step": step.name, "ended": ended, "seconds": round(time.monotonic() - started, 1), "tail": tail}


def rows(path: Path) -> list[Any]:
    """Return a record's rows; none where there is no record."""
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait a little for a process, then end it and all that it started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
