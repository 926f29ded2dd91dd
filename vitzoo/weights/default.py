"""The public checkpoint of a name."""

from __future__ import annotations

from vitzoo.catalog import find_default
from vitzoo.config import ViTConfig
from vitzoo.errors import ConfigError
from vitzoo.weights.source import Source, open_source

# The word for `weights=` that means it.
DEFAULT = "default"


def open_default(name: str | ViTConfig) -> tuple[str, Source]:
    """Return the name with its tag, and the checkpoint that belongs to it.

    Raises:
        ConfigError: not a name but a ViTConfig.
        UnknownNameError: no such model or tag.
        CheckpointError: there is no public checkpoint, or it cannot be fetched or read.
    """
    if isinstance(name, ViTConfig):
        raise ConfigError(f"weights={DEFAULT!r} belong to a name, and a ViTConfig has none: create(name, weights=...)")
    found = find_default(name)
    assert found.tag is not None
    return found.name, open_source(str(found.tag.weights))
