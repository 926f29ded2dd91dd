"""What a figure was measured on: GPU, driver, versions, commit, clocks, and the ceilings that shares refer to."""

from __future__ import annotations

import datetime
import platform
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import triton

from benchmarks.records import read_commit
from benchmarks.timing import CudaStopwatch, HostStopwatch

# Vendor's data sheets: dense 16-bit matrix FLOP/s, bytes/s.
DATASHEET = {
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
}
CLOCK_FIELDS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"


def describe(device: torch.device, *, commit: str | None = None) -> dict[str, Any]:
    """Return the machine, the versions and the commit.

    Args:
        device: where things run.
        commit: the commit measured, ending in -dirty where files differ from it; read from git when None.

    Raises:
        RuntimeError: the commit is not given and this is no git checkout.
    """
    described = {
        "device": platform.processor() or platform.machine(),
        "commit": commit or read_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "threads": torch.get_num_threads(),
    }
    described["dirty"] = described["commit"].endswith("-dirty")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "device": properties.name,
            "capability": list(torch.cuda.get_device_capability(device)),
            "multiprocessors": properties.multi_processor_count,
            "cache_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": nvidia_smi("driver_version"),
            "max_clocks_mhz": nvidia_smi("clocks.max.sm,clocks.max.mem"),
            "power_limit_w": nvidia_smi("power.limit"),
        }
    return described


def nvidia_smi(fields: str) -> str:
    """Return what nvidia-smi says of the first GPU, without units, or why it says nothing."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


class ClockLog:
    """Clocks, power and temperature of the first GPU while the block runs, twice a second; empty without one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.summary: dict[str, list[float]] = {}

    def __enter__(self) -> ClockLog:
        if self._device.type == "cuda":
            self._file = tempfile.TemporaryFile("w+")
            command = ["nvidia-smi", "--id=0", f"--query-gpu={CLOCK_FIELDS}", "--format=csv,noheader,nounits"]
            self._process = subprocess.Popen([*command, "--loop-ms=500"], stdout=self._file)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._device.type == "cuda":
            # As Ctrl-C: it writes out what it holds.
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._file.seek(0)
            self.summary = summarize_clocks(self._file.read())
            self._file.close()


def summarize_clocks(log: str) -> dict[str, list[float]]:
    """Return the lowest, median and highest value of each field of nvidia-smi's lines."""
    rows = []
    for line in log.splitlines():
        values = line.split(",")
        # The last line may be cut off; a field a GPU does not report is "[N/A]", and then none of the line counts.
        if len(values) == len(CLOCK_FIELDS.split(",")) and all(v.strip().replace(".", "", 1).isdigit() for v in values):
            rows.append([float(v) for v in values])
    if not rows:
        return {}
    columns = zip(*rows, strict=True)
    return {
        field: [min(column), statistics.median(column), max(column)]
        for field, column in zip(CLOCK_FIELDS.split(","), columns, strict=True)
    }


def measure_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the bytes/s of a copy, read and written, and the FLOP/s of a matrix product of random numbers.

    On a CPU the sizes are small and the figures only show that it works.
    """
    elements, side = (2**30, 8192) if device.type == "cuda" else (2**20, 256)
    source, target = (torch.randn(elements, device=device, dtype=dtype) for _ in range(2))
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    stopwatch = CudaStopwatch() if device.type == "cuda" else HostStopwatch()

    def median(run: Callable[[int], object]) -> float:
        stopwatch.calibrate(run)
        return statistics.median(stopwatch.measure(run, 0, 1) for _ in range(9))

    return {
        "bytes_per_s": 2 * source.nbytes / median(lambda i: target.copy_(source)),
        "flops_per_s": 2 * side**3 / median(lambda i: a @ b),
    }


def datasheet_peaks(name: str) -> dict[str, float] | None:
    """Return the dense 16-bit FLOP/s and bytes/s that the vendor states, or None for a GPU not in the table."""
    if name not in DATASHEET:
        return None
    flops, bytes_ = DATASHEET[name]
    return {"flops_per_s": flops, "bytes_per_s": bytes_}
