"""What importing vitzoo and listing its models adds to the start of bare Python, and what `vitzoo plugins` takes.

python -m benchmarks.listing [--out FILE]

The command finds four plugins: one that loads, one that raises, one made for another plugin API, and one whose name two
distributions claim.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitzoo.scaffold import new_plugin

REPEATS = 21
COMMANDS = {
    "bare Python": ["-c", "pass"],
    "import vitzoo": ["-c", "import vitzoo"],
    "list_models()": ["-c", "import vitzoo; vitzoo.list_models()"],
    "vitzoo plugins": ["-m", "vitzoo", "plugins"],
}
# {distribution: (plugin, what its manifest says instead of require_api(1))}.
PLUGINS = {
    "vitzoo-good": ("good", "registrar.require_api(1)"),
    "vitzoo-broken": ("broken", "raise KeyError('lost')"),
    "vitzoo-outdated": ("outdated", "registrar.require_api(2)"),
    "vitzoo-acme": ("acme", "registrar.require_api(1)"),
    "acme-fork": ("acme", "registrar.require_api(1)"),
}


def main() -> None:
    """Run the statements in turns, each in a process of its own, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # An installed package has its bytecode beside it; some shells forbid Python to write it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        install_plugins(Path(folder))
        for _ in range(REPEATS):
            for name, arguments in COMMANDS.items():
                # Discovery asks the plugins' folder only where it is listed: the others are measured without.
                paths = [folder] if name == "vitzoo plugins" else []
                environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *sys.path[1:]])}
                start = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
                times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["bare Python"]
    for name, median in medians.items():
        print(f"{name:16} {median:7.1f} ms   {median - bare:+7.1f} ms over bare Python")
    if options.out:
        record = {"python": platform.python_version(), "repeats": REPEATS, "median_ms": medians}
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def install_plugins(folder: Path) -> None:
    """Lay the plugins out as pip would."""
    for distribution, (plugin, instead) in PLUGINS.items():
        package = f"vitzoo_{plugin}"
        if not (folder / package).exists():
            new_plugin(plugin, folder=folder / "sources")
            shutil.copytree(folder / "sources" / f"vitzoo-{plugin}" / package, folder / package)
            manifest = folder / package / "manifest.py"
            manifest.write_text(manifest.read_text().replace("registrar.require_api(1)", instead))
        described = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(f"[vitzoo.plugins]\n{plugin} = {package}.manifest:register\n")


if __name__ == "__main__":
    main()
