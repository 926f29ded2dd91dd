"""Writing files so that each is there whole or not at all, and files that belong together all or none."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitzoo.errors import WriteError


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a draft beside each path, all of one folder; at the end all of them take their places.

    On any error or interrupt before that every path stays as it was: a disk that is full is noticed while only drafts
    are written. Processes that write to one folder take turns, so that it holds all files of the one or of the other.
    """
    drafts: list[Path] = []
    try:
        for path in paths:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".draft-", suffix=path.suffix)
            os.close(handle)
            drafts.append(Path(name))
        yield drafts
        # mkstemp makes private files; give what a plain open would have given.
        mask = os.umask(0)
        os.umask(mask)
        for draft in drafts:
            draft.chmod(0o666 & ~mask)
            _reach_the_disk(draft)
        with _turn(paths[0].parent):
            for draft, path in zip(drafts, paths, strict=True):
                draft.replace(path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a draft beside `path` that takes its place at the end; on any error or interrupt `path` stays as it was."""
    with written_together([path]) as drafts:
        yield drafts[0]


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """Yield a draft of a new folder that takes its place at the end; on any error or interrupt nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".draft-") as kept:
        draft = Path(kept) / path.name
        draft.mkdir()
        yield draft
        draft.rename(path)


def require_writable(path: Path) -> None:
    """Raise unless a file can be written at `path`; whoever computes for long asks before.

    Raises:
        WriteError: it cannot; the message says why.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise WriteError(f"{str(path)!r} cannot be written: {error.strerror or error}; name another place") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    with written_whole(path) as draft:
        draft.write_text(json_text(data))


def json_text(data: Any) -> str:
    """Return JSON as it stands in files."""
    return json.dumps(data, indent=2) + "\n"


def _reach_the_disk(path: Path) -> None:
    """Wait for the file's bytes: some file systems tell only then that there is no room for them."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Windows has none, nor have some network file systems: there nobody waits."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
