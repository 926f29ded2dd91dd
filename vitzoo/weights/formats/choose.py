"""Which format weights are of: told by the caller, or by names, shapes and the JSON beside them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from vitzoo.errors import CheckpointError, PluginError
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


def models_of(format: str) -> str | None:
    """Return the pattern of the names of the models that the format is for; None for plain ViTs."""
    pattern: str | None = get_entry("weights", format).meta.get("models")
    return pattern


def formats_for(model: str | None) -> list[str]:
    """Return the names of the formats for a plugin's own model, or, for None, for plain ViTs."""
    patterns = {name: models_of(name) for name in format_names()}
    if model is None:
        return [name for name, pattern in patterns.items() if pattern is None]
    return [name for name, pattern in patterns.items() if pattern is not None and fnmatchcase(model, pattern)]


def require_format_for(model: str | None, format: str) -> None:
    """Raise CheckpointError unless the format is for the plugin's own model of that name, or, for None, for plain ViTs.

    Args:
        model: as for `formats_for`.
        format: a format's name.

    Raises:
        CheckpointError: it is for other models; the message holds the formats for this one.
        UnknownNameError: nothing has the format's name.
    """
    suited = formats_for(model)
    if get_entry("weights", format).name in suited:
        return
    pattern = models_of(format)
    theirs = "plain ViTs" if pattern is None else f"the models {pattern}"
    ours = "this is a plain ViT" if model is None else f"this is {model!r}"
    possible = ", ".join(["vitzoo", *suited])
    raise CheckpointError(f"format={format!r} is for {theirs}, and {ours} (possible for it: {possible})")


def detect(source: Source, *, among: Iterable[str] | None = None, or_else: str | None = None) -> str:
    """Return the one format whose signs the weights bear.

    Args:
        source: the weights.
        among: the formats to ask; None for all.
        or_else: what to return when no format's are there; None to raise.

    Raises:
        CheckpointError: none or several do; the message says why.
    """
    asked = format_names() if among is None else among
    reasons = {name: _reasons_against(name, source) for name in asked}
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
    others = [name for name in format_names() if name not in reasons]
    if claimed := [name for name in others if not _reasons_against(name, source)]:
        pattern = models_of(claimed[0])
        raise CheckpointError(
            f"the weights of {source.name} are of the format {claimed[0]!r}, which is for "
            f"{'plain ViTs' if pattern is None else f'the models {pattern}'}, not for the model that was named; "
            "nothing was loaded. vitzoo.load(...) builds the model that weights belong to"
        )
    lines = [f"the weights of {source.name} are of no format that vitzoo knows; nothing was loaded."]
    lines += [f"  {name}: {'; '.join(against)}" for name, against in reasons.items()]
    raise CheckpointError("\n".join(lines))


def _reasons_against(format: str, source: Source) -> list[str]:
    try:
        return list(get_format(format).reasons_against(source))
    except PluginError as error:
        # Weights of other formats can be read without the plugin; whoever needs it is told why it is not asked.
        return [f"cannot be asked: {error}"]
