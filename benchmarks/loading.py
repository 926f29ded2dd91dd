"""Loading a checkpoint of 300 M parameters: its peak memory over that of the weights, and its time beside safetensors'.

    python -m benchmarks.loading [--quick] [--out FILE]

Every layout holds the same random vit_large in float32. Memory: a process of its own loads it once and reads every
page of every weight; what its peak resident memory rose by, over the bytes of the model's weights (Linux). Time: vitzoo
and safetensors' `load_file` take turns, and after either every page of every weight is read, for `load_file` alone maps
the file and reads nothing. "tensors" is `load_file` (torch.load for .pth) of the same files, which makes no model;
"model" makes one of them: `vitzoo.create` on the meta device, and `load_state_dict(load_file(...), assign=True)` of the
timm layout, which nobody has to convert. Files are in the page cache, so that disks do not matter.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitzoo

NAME = "vit_large"
# {layout: (the format, the file or directory, the argument that loading needs)}
LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vitzoo": ("vitzoo", "vitzoo", {}),
    "timm": ("timm", "timm.safetensors", {"name": NAME}),
    "torchvision": ("torchvision", "torchvision.safetensors", {}),
    "torchvision .pth": ("torchvision", "torchvision.pth", {}),
    "transformers": ("transformers", "transformers", {}),
    "transformers, sharded": ("transformers", "sharded", {}),
    "transformers to bfloat16": ("transformers", "transformers", {"dtype": torch.bfloat16}),
}
SHARDS = 4


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three repeats: shows that it runs")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument(
        "--peak", nargs=2, metavar=("LAYOUT", "FOLDER"), help="measure one peak; for the benchmark itself"
    )
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak[0], Path(options.peak[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights_bytes = write_layouts(folder)
        rows = [measure(layout, folder, repeats=3 if options.quick else 11) for layout in LAYOUTS]
    print(f"{weights_bytes / 2**20:.0f} MiB of weights")
    columns = ("layout", "peak memory", "ms", "tensors ms", "ratio", "model ms", "ratio")
    print("{:26} {:>12} {:>8} {:>11} {:>7} {:>9} {:>7}".format(*columns))
    for row in rows:
        print(
            f"{row['layout']:26} {row['peak']:11.3f}x {row['ms']:8.0f} {row['tensors_ms']:11.0f} "
            f"{row['over_tensors']:7.2f} {row['model_ms']:9.0f} {row['over_model']:7.2f}"
        )
    if options.out:
        record = {"machine": describe_machine(), "weights_bytes": weights_bytes, "rows": rows}
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def write_layouts(folder: Path) -> int:
    """Write the model in every layout, and return the bytes of its weights."""
    model = vitzoo.create(NAME)
    for format, path, _ in LAYOUTS.values():
        if not path.endswith(".pth") and path != "sharded":
            vitzoo.save(model, folder / path, format=format)
    torch.save(load_file(folder / "torchvision.safetensors"), folder / "torchvision.pth")
    (folder / "sharded").mkdir()
    state = load_file(folder / "transformers/model.safetensors")
    index = {}
    for i in range(SHARDS):
        file = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        own = {name: state[name] for name in sorted(state)[i::SHARDS]}
        safetensors.torch.save_file(own, folder / "sharded" / file)
        index |= dict.fromkeys(own, file)
    (folder / "sharded/model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "sharded/config.json").write_text((folder / "transformers/config.json").read_text())
    return sum(parameter.nbytes for parameter in model.parameters())


def load(layout: str, folder: Path) -> torch.nn.Module:
    """Load one layout with vitzoo."""
    _, path, options = LAYOUTS[layout]
    options = dict(options)
    name = options.pop("name", None)
    if name is not None:
        return vitzoo.create(name, weights=folder / path, **options)
    return vitzoo.load(folder / path, **options)


def read_pages(tensors: Iterable[Tensor]) -> None:
    """Read one value of every page, so that all of the weights are in memory."""
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        flat[:: 4096 // flat.element_size()].float().sum()


def peak(layout: str, folder: Path) -> float:
    """Return the peak of resident memory while loading and reading, over the bytes of the weights."""
    vitzoo.load(folder / "small")  # what is imported at first use is no cost of the weights
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    model = load(layout, folder)
    read_pages(model.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return (resident("VmHWM") - before) / weights


def resident(what: str) -> int:
    """Return a line of this process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def measure(layout: str, folder: Path, *, repeats: int) -> dict[str, Any]:
    """Return one row: the peak, and the times of vitzoo and of its two peers in turns."""
    path = folder / LAYOUTS[layout][1]
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]

    def ours() -> None:
        read_pages(load(layout, folder).parameters())

    def tensors_alone() -> None:
        for file in files:
            read_pages((torch.load(file) if file.suffix == ".pth" else load_file(file)).values())

    def a_model() -> None:
        model = vitzoo.create(NAME, device="meta")
        model.load_state_dict(load_file(folder / "timm.safetensors"), assign=True)
        read_pages(model.parameters())

    times = turns((ours, tensors_alone, a_model), repeats)
    medians = [statistics.median(seconds) * 1e3 for seconds in times]
    if not (folder / "small").exists():
        vitzoo.save(vitzoo.create("vit_tiny", depth=1), folder / "small", format="transformers")
    command = [sys.executable, "-m", "benchmarks.loading", "--peak", layout, str(folder)]
    memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "layout": layout,
        "peak": round(memory, 4),
        "ms": round(medians[0], 1),
        "tensors_ms": round(medians[1], 1),
        "over_tensors": round(medians[0] / medians[1], 3),
        "model_ms": round(medians[2], 1),
        "over_model": round(medians[0] / medians[2], 3),
        "repeats": repeats,
    }


def turns(runs: tuple[Callable[[], None], ...], repeats: int) -> list[list[float]]:
    """Return each one's seconds; they take turns, and another one goes first in every round; two rounds warm up."""
    times: list[list[float]] = [[] for _ in runs]
    for round_ in range(repeats + 2):
        for i in range(len(runs)):
            which = (i + round_) % len(runs)
            gc.collect()
            start = time.perf_counter()
            runs[which]()
            if round_ >= 2:
                times[which].append(time.perf_counter() - start)
    return times


def describe_machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "vitzoo": vitzoo.__version__,
    }


if __name__ == "__main__":
    main()
