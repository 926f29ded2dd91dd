"""vitzoo's models against timm's, in one process, call by call in turns: create, forward, forward and backward.

    python -m benchmarks.model --cpu [--quick] [--out FILE]
    python -m benchmarks.model --gpu [--quick] [--out FILE]     # throughput.py says what

Every figure is the ratio of medians vitzoo / timm over interleaved runs on equal weights and inputs; before anything is
timed the two models' outputs are compared. The 20 to 80 % range of the paired ratios says how far to trust a ratio.

On a CPU with glibc, freed memory stays with the process. Otherwise it goes back to the kernel or not as addresses fall,
which cost either model up to 12 % (vit_small forward at batch 8, two x86 cores), in some processes and not in others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import vitzoo
from benchmarks import throughput
from benchmarks.timing import interleave, ratio, spread

MODELS = {"vit_small": "vit_small_patch16_224", "vit_base": "vit_base_patch16_224"}
BATCHES = (1, 8)
# glibc reads them when a process starts.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_MAX_": "0"}


def main() -> int:
    """Run the benchmark, print its table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--cpu", action="store_true", help="create, forward, forward and backward, in float32")
    where.add_argument("--gpu", action="store_true", help="throughput of inference and training, in bfloat16")
    parser.add_argument("--budget-s", type=float, help="with --gpu: start no other case after so long; 540")
    parser.add_argument("--modes", nargs="+", choices=throughput.MODES, help="with --gpu: only these; both")
    parser.add_argument("--commit", help="with --gpu: what is measured, where this is no git checkout")
    parser.add_argument("--quick", action="store_true", help="a few repeats of a small model: shows that it runs")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    for option, value in (
        ("--budget-s", options.budget_s),
        ("--modes", options.modes),
        ("--commit", options.commit),
    ):
        if options.cpu and value is not None:
            parser.error(f"{option} goes with --gpu")
    if options.gpu:
        # Without a GPU a quick run shows at least that it runs.
        if not (torch.cuda.is_available() or options.quick):
            parser.error("--gpu needs a CUDA GPU: there is none")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        budget_s = 540.0 if options.budget_s is None else options.budget_s
        modes = options.modes or throughput.MODES
        return throughput.run(
            device, quick=options.quick, budget_s=budget_s, commit=options.commit, out=options.out, modes=modes
        )
    if KEEP_MEMORY.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.model", *sys.argv[1:]], os.environ | KEEP_MEMORY)
    device = torch.device("cpu")
    names = ["vit_small"] if options.quick else list(MODELS)
    rows = []
    for name in names:
        rows += measure_model(name, device, quick=options.quick)
    print(f"{'model':10} {'what':18} {'batch':>5} {'vitzoo ms':>10} {'timm ms':>10} {'ratio':>7}  20-80 %")
    for row in rows:
        low, high = row["range"]
        print(
            f"{row['model']:10} {row['what']:18} {row['batch'] or '-':>5} {row['vitzoo_ms']:10.2f} "
            f"{row['timm_ms']:10.2f} {row['ratio']:7.3f}  {low:.3f}-{high:.3f}"
        )
    if options.out:
        record = {"machine": describe_machine(device), "rows": rows}
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def measure_model(name: str, device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """Return the rows of one model."""
    rows = [measure_create(name, device, repeats=3 if quick else 11)]
    theirs = timm.create_model(MODELS[name]).to(device).eval()
    ours = vitzoo.create(name, device=device).eval()
    ours.load_state_dict(theirs.state_dict())
    for batch in BATCHES:
        image = torch.randn(batch, 3, 224, 224, device=device)
        with torch.no_grad():
            torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)
        repeats = 3 if quick else 31 if batch == 1 else 9
        for what, run in (("forward", forward), ("forward+backward", forward_backward)):
            runs = {"vitzoo": partial(run, ours, image), "timm": partial(run, theirs, image)}
            rows.append(row(name, what, batch, interleave(runs, repeats)))
    return rows


def measure_create(name: str, device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Return the row of the time it takes to make a model with fresh weights."""
    runs = {
        "vitzoo": lambda: vitzoo.create(name, device=device),
        "timm": lambda: timm.create_model(MODELS[name]).to(device),
    }
    return row(name, "create", None, interleave(runs, repeats))


def forward(model: nn.Module, image: torch.Tensor) -> None:
    """Run inference once."""
    with torch.no_grad():
        model(image)
    synchronize(image)


def forward_backward(model: nn.Module, image: torch.Tensor) -> None:
    """Run forward and backward once."""
    model(image).sum().backward()
    model.zero_grad(set_to_none=True)
    synchronize(image)


def synchronize(image: torch.Tensor) -> None:
    """Wait for the GPU, when there is one."""
    if image.is_cuda:
        torch.cuda.synchronize()


def row(model: str, what: str, batch: int | None, times: dict[str, list[float]]) -> dict[str, Any]:
    """Return one row of the table."""
    against = ratio(times["vitzoo"], times["timm"])
    return {
        "model": model,
        "what": what,
        "batch": batch,
        "vitzoo_ms": round(spread(times["vitzoo"]).median * 1e3, 3),
        "timm_ms": round(spread(times["timm"]).median * 1e3, 3),
        "ratio": round(against.median, 4),
        "range": [round(against.low, 4), round(against.high, 4)],
        "repeats": against.samples,
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "vitzoo": vitzoo.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
