"""Names of classes: the checkpoint's own, or ImageNet-1k's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

IMAGENET = "imagenet-1k.txt"


def imagenet_1k() -> tuple[str, ...]:
    """Return the names of the 1000 classes of ImageNet-1k, in the order of their numbers."""
    return tuple(files("vitzoo.data").joinpath(IMAGENET).read_text(encoding="utf-8").splitlines())


def labels_of(named: Any) -> tuple[str, ...]:
    """Return the names that a checkpoint's JSON has, by number; none when it has none or only placeholders.

    Args:
        named: a list of names, or {'0': name, ...} as transformers' `id2label`.
    """
    if isinstance(named, Mapping):
        named = [named.get(str(i), named.get(i)) for i in range(len(named))]
    if not isinstance(named, Sequence) or isinstance(named, str) or not all(isinstance(name, str) for name in named):
        return ()
    # transformers' names for classes that nobody named.
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(named)) else tuple(named)
