"""What importing vitzoo and listing its models adds to the start of bare Python.

python -m benchmarks.listing [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 21
STATEMENTS = {
    "bare Python": "pass",
    "import vitzoo": "import vitzoo",
    "list_models()": "import vitzoo; vitzoo.list_models()",
}


def main() -> None:
    """Run the statements in turns, each in a process of its own, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(REPEATS):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["bare Python"]
    for name, median in medians.items():
        print(f"{name:16} {median:7.1f} ms   {median - bare:+7.1f} ms over bare Python")
    if options.out:
        record = {"python": platform.python_version(), "repeats": REPEATS, "median_ms": medians}
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
