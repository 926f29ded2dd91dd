"""What loading did, as data: where weights came from, how they were read, and all that was changed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitzoo.errors import CheckpointError

Action = Literal["added", "converted", "dropped", "folded", "reset", "resized", "set"]
ACTIONS: tuple[Action, ...] = ("converted", "folded", "resized", "added", "dropped", "reset", "set")


@dataclass(frozen=True, kw_only=True)
class Note:
    """One thing that was done to weights or settings, on purpose.

    Args:
        action: converted (another form of the same numbers), folded (one tensor into another), resized, added (a
            tensor that the source implies), dropped, reset (drawn anew), or set (a setting that the weights ask for).
        what: the tensors or the setting.
        why: the reason, in a few words.
    """

    action: Action
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.action} {self.what}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file that was read, as it was at that moment.

    Args:
        path: where it is.
        size: bytes.
        changed: its time of change in nanoseconds.
    """

    path: Path
    size: int
    changed: int

    @classmethod
    def at(cls, path: Path) -> WeightsFile:
        """Return what `path` is now."""
        status = path.stat()
        return cls(path=path, size=status.st_size, changed=status.st_mtime_ns)

    def sha256(self) -> str:
        """Return the file's SHA-256 in hexadecimal, computed when asked for: it takes longer than the loading.

        Raises:
            CheckpointError: the file is gone, or is not the one that was read.
        """
        if not self.path.is_file() or WeightsFile.at(self.path) != self:
            raise CheckpointError(f"{str(self.path)!r} has changed since it was read, so its hash would be another's")
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `create` and `load` read and did; `model.load_report`.

    Args:
        source: what the caller asked for.
        files: the files that the weights were read from.
        revision: the commit of a hub repository, else None.
        format: the format's name; 'vitzoo' when the names were the model's own.
        tensors: number of tensors in the model.
        notes: what was converted, folded, resized, added, dropped, reset and set.
    """

    source: str
    files: tuple[WeightsFile, ...]
    revision: str | None
    format: str
    tensors: int
    notes: tuple[Note, ...] = field(default=())

    def of(self, action: Action) -> tuple[Note, ...]:
        """Return the notes of one action."""
        return tuple(note for note in self.notes if note.action == action)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with each file's SHA-256.

        Raises:
            CheckpointError: a file has changed since it was read.
        """
        return {
            "source": self.source,
            "files": [{"path": str(file.path), "bytes": file.size, "sha256": file.sha256()} for file in self.files],
            "revision": self.revision,
            "format": self.format,
            "tensors": self.tensors,
            "notes": [{"action": note.action, "what": note.what, "why": note.why} for note in self.notes],
        }

    def __str__(self) -> str:
        revision = f" at {self.revision}" if self.revision else ""
        lines = [f"{self.tensors} tensors from {self.source}{revision}, format {self.format}"]
        lines += [f"  read {file.path} ({file.size:,} bytes)" for file in self.files]
        return "\n".join([*lines, *(f"  {line}" for line in listed(self.notes))])


def listed(notes: Sequence[Note]) -> list[str]:
    """Return the notes as lines, in the order of `ACTIONS`."""
    return [str(note) for action in ACTIONS for note in notes if note.action == action]
