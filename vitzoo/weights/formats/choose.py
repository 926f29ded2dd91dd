"""Which format weights are of: told by the caller, or by names, shapes and the JSON beside them."""

from __future__ import annotations

from typing import Any

from vitzoo.errors import CheckpointError
from vitzoo.plugin import get_entry, get_registry
from vitzoo.weights.formats.base import Format
from vitzoo.weights.source import Source


def format_names() -> list[str]:
    """Return the names of all foreign formats, sorted."""
    return get_registry().names("weights")


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UnknownNameError: nothing has it; the message holds the near names.
    """
    target: Any = get_entry("weights", name).load()
    return target() if isinstance(target, type) else target


def detect(source: Source, *, or_else: str | None = None) -> str:
    """Return the one format whose signs the weights bear.

    Args:
        source: the weights.
        or_else: what to return when no format's are there; None to raise.

    Raises:
        CheckpointError: none or several do; the message says why.
    """
    reasons = {name: get_format(name).reasons_against(source) for name in format_names()}
    fitting = [name for name, against in reasons.items() if not against]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"the weights of {source.name} could be of the formats {' and '.join(fitting)}; nothing was loaded: "
            f"say which with format={fitting[0]!r}"
        )
    if or_else is not None:
        return or_else
    lines = [f"the weights of {source.name} are of no format that vitzoo knows; nothing was loaded."]
    lines += [f"  {name}: {'; '.join(against)}" for name, against in reasons.items()]
    raise CheckpointError("\n".join(lines))
