"""`vitzoo doctor`: what is here, what can run, and what is broken."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Annotated, Any

import typer

import vitzoo
from vitzoo.attention.caps import installed_version
from vitzoo.cli.output import console, show_json, show_table
from vitzoo.plugin import get_registry, plugins

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "einops",
    "safetensors",
    "huggingface_hub",
    "timm",
    "transformers",
    "open_clip_torch",
)
VARIABLES = ("VITZOO_PLUGINS", "TRITON_INTERPRET")


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, devices, backends and plugins, and check the kernel; exit with 1 when something is broken."""
    import torch

    from vitzoo.testing.selfcheck import check_kernel

    gpus: list[dict[str, Any]] = [
        {
            "name": torch.cuda.get_device_name(index),
            "capability": list(torch.cuda.get_device_capability(index)),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
        }
        for index in range(torch.cuda.device_count())
    ]
    report: dict[str, Any] = {
        "versions": {
            "vitzoo": vitzoo.__version__,
            "python": platform.python_version(),
            **{package: installed_version(package) for package in PACKAGES},
            "cuda (of torch)": torch.version.cuda,
        },
        "platform": platform.platform(),
        "gpus": gpus,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "attention": _backends(["cpu", *(["cuda"] if gpus else [])], [gpu["capability"] for gpu in gpus]),
        "kernel": [asdict(check) for check in check_kernel()],
        "plugins": [asdict(status) for status in plugins().values()],
    }
    broken = [status["name"] for status in report["plugins"] if status["state"] not in ("loaded", "disabled")]
    if not all(check["ok"] for check in report["kernel"]):
        broken.append("the kernel")
    report["broken"] = broken
    if json:
        show_json(report)
    else:
        _show(report)
    if broken:
        raise typer.Exit(1)


def _backends(devices: list[str], capabilities: list[list[int]]) -> list[dict[str, Any]]:
    """Return for every backend the devices of this machine that it runs on, and why not the others."""
    from vitzoo.attention.select import caps_of

    rows = []
    for entry in get_registry().entries("attention"):
        caps = caps_of(entry.name)
        reasons = [str(reason) for reason in caps.never_runs()]
        reasons += [
            f"device={device} (supported: {', '.join(caps.devices)})"
            for device in devices
            if device not in caps.devices
        ]
        lowest = caps.min_capability
        old = [found for found in capabilities if lowest and tuple(found) < lowest]
        reasons += [
            f"compute capability {found[0]}.{found[1]} (supported: >= {lowest[0]}.{lowest[1]})"
            for found in old
            if lowest
        ]
        runs_on = [] if caps.never_runs() else [device for device in devices if device in caps.devices]
        rows.append({"name": entry.name, "doc": entry.doc, "runs_on": runs_on, "reasons": reasons, "note": caps.note})
    return rows


def _show(report: dict[str, Any]) -> None:
    show_table(
        ["", ""], [(name, version or "not installed") for name, version in report["versions"].items()], title="versions"
    )
    console.print()
    gpus = [
        f"{gpu['name']}, capability {'.'.join(map(str, gpu['capability']))}, {gpu['memory_bytes'] / 2**30:.0f} GiB"
        for gpu in report["gpus"]
    ]
    environment = ", ".join(f"{name}={value}" for name, value in report["environment"].items() if value is not None)
    show_table(
        ["", ""],
        [
            ("platform", report["platform"]),
            ("GPUs", "; ".join(gpus) or "none"),
            ("environment", environment or "nothing set"),
        ],
        title="machine",
    )
    console.print()
    show_table(
        ["backend", "runs here on", "why not elsewhere"],
        [
            (
                row["name"],
                ", ".join(row["runs_on"]) or "nothing",
                " ".join(["; ".join(row["reasons"]), row["note"]]).strip(),
            )
            for row in report["attention"]
        ],
        title="attention",
    )
    console.print()
    if report["kernel"]:
        rows = [
            (
                check["device"],
                check["case"],
                "right" if check["ok"] else "WRONG" if check["ran"] else "did not run",
                check["detail"],
            )
            for check in report["kernel"]
        ]
        show_table(["device", "case", "numbers", "detail"], rows, title="the kernel's numbers against float64")
        console.print()
    if report["plugins"]:
        rows = [
            (row["name"], row["state"], f"{row['distribution']} {row['version']}", row["detail"])
            for row in report["plugins"]
        ]
        show_table(["plugin", "state", "package", "detail"], rows, title="plugins")
    else:
        console.print("No plugin is installed.")
    if report["broken"]:
        console.print(f"\n[bold red]broken:[/] {', '.join(report['broken'])}")
