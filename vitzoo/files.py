"""Writing files so that each is there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a draft beside `path` that takes its place at the end; on any error or interrupt `path` stays as it was."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".draft-", suffix=path.suffix)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        # mkstemp makes private files; give what a plain open would have given.
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    with written_whole(path) as draft:
        draft.write_text(json.dumps(data, indent=2) + "\n")
