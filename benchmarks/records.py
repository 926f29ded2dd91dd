"""What every record needs, without torch: the commit that is measured, and files that are whole at any time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record; who is stopped meanwhile leaves the earlier one whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def read_commit() -> str:
    """Return the checkout's commit, ending in -dirty where tracked files differ from it.

    Raises:
        RuntimeError: this is no git checkout.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"which commit is measured? git says: {done.stderr.strip()}; pass --commit, with -dirty at its end "
            "where files differ from it"
        )
    return done.stdout.strip()
