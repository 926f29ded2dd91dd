"""The registry: names to targets that are imported at first use. Standard library only."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vitzoo.attention.caps import AttentionCaps
from vitzoo.errors import NameConflictError, PluginError, UnknownNameError, suggestion

KINDS = (
    "model",
    "block",
    "attention",
    "patch_embed",
    "pos_embed",
    "rope",
    "norm",
    "mlp",
    "pool",
    "weights",
)

# What a registration may say besides, and as what: listings and choices read it of all plugins at once.
_META: dict[str, type] = {
    "doc": str,
    "caps": AttentionCaps,
    "license": str,
    "paper": str,
    "arxiv": str,
    "models": str,
    "test_args": Mapping,
    "test_config": Mapping,
    "test_model": str,
}
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered thing.

    Args:
        kind: one of `KINDS`.
        name: the name users say; `namespace/name` unless it belongs to vitzoo itself.
        provider: who registered it: 'vitzoo', a plugin's name or a script's namespace.
        target: 'package.module:attribute', imported at first use, or the object itself.
        doc: one line for listings.
        meta: what the kind's protocol asks for besides (an attention backend's caps, for example).
    """

    kind: str
    name: str
    provider: str
    target: Any
    doc: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Return the target, importing it when it is a string.

        Raises:
            PluginError: the target's module cannot be imported or lacks the attribute, or the target cannot be called.
        """
        target = self.target
        if isinstance(target, str):
            module_name, _, attribute = target.partition(":")
            try:
                target = getattr(importlib.import_module(module_name), attribute)
            except (Exception, SystemExit) as error:  # a stranger's module may raise anything, or exit
                raise self._refused(f"cannot be imported: {type(error).__name__}: {error}") from error
        # A model may also be a row of a table, and a format of weights an object.
        if not callable(target) and self.kind not in ("model", "weights"):
            raise self._refused(f"is a {type(target).__name__} and cannot be called")
        return target

    def _refused(self, why: str) -> PluginError:
        return PluginError(
            f"{self.kind} {self.name!r} is registered by {self.provider!r} as {self.target!r}, which {why}"
        )


def check_name(kind: str, name: str, *, namespaced: bool) -> None:
    """Raise unless `kind` exists and `name` is well formed.

    Raises:
        UnknownNameError: there is no such kind.
        ValueError: the name is not lower case letters, digits and underscores (after an optional 'namespace/').
    """
    if kind not in KINDS:
        raise UnknownNameError(f"unknown kind {kind!r}.{suggestion(kind, KINDS)}")
    parts = name.split("/")
    if len(parts) != (2 if namespaced else 1) or not all(_PLAIN_NAME.fullmatch(part) for part in parts):
        shape = "namespace/name" if namespaced else "name"
        raise ValueError(f"{name!r} is not a valid {kind} name: write {shape!r} in lower case letters, digits and _")


def check_meta(kind: str, name: str, meta: Mapping[str, Any]) -> None:
    """Raise unless a registration says of itself what one can say.

    Raises:
        TypeError: there is no such keyword, or its value is of another type.
    """
    for key, value in meta.items():
        if key not in _META:
            raise TypeError(f"{kind} {name!r} is registered with an unknown {key}=.{suggestion(key, list(_META))}")
        if not isinstance(value, _META[key]):
            raise TypeError(f"{kind} {name!r} is registered with {key}={value!r}, which is no {_META[key].__name__}")


def check_namespace(namespace: str) -> None:
    """Raise unless a plugin can have that name.

    Raises:
        ValueError: it is not lower case letters, digits and underscores, or it is 'vitzoo'.
    """
    if namespace == "vitzoo" or not _PLAIN_NAME.fullmatch(namespace):
        raise ValueError(
            f"a plugin cannot be named {namespace!r} (possible: lower case letters, digits and _, and not 'vitzoo')"
        )


class Registry:
    """A table of entries and aliases. A taken name raises; nothing is replaced."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            NameConflictError: the name is taken; the message names both providers.
            ValueError: the target is a string but not 'package.module:attribute'.
        """
        if isinstance(entry.target, str) and not _TARGET.fullmatch(entry.target):
            raise ValueError(
                f"target {entry.target!r} of {entry.kind} {entry.name!r} is not 'package.module:attribute'"
            )
        self._refuse_taken(entry.kind, entry.name, entry.provider)
        self._entries[entry.kind, entry.name] = entry

    def add_alias(self, kind: str, alias: str, name: str, *, provider: str) -> None:
        """Let `alias` stand for the registered `name`.

        Raises:
            NameConflictError: the alias is taken.
            UnknownNameError: `name` is not registered.
        """
        if (kind, name) not in self._entries:
            raise UnknownNameError(f"alias {alias!r} points at the {kind} {name!r}, which is not registered")
        self._refuse_taken(kind, alias, provider)
        self._aliases[kind, alias] = name

    def find(self, kind: str, name: str) -> Entry | None:
        """Return the entry of that name or alias, or None."""
        return self._entries.get((kind, self._aliases.get((kind, name), name)))

    def names(self, kind: str) -> list[str]:
        """Return the registered names of a kind, sorted, without aliases."""
        return sorted(name for entry_kind, name in self._entries if entry_kind == kind)

    def aliases(self, kind: str) -> dict[str, str]:
        """Return {alias: name} of a kind, sorted."""
        return {alias: name for (alias_kind, alias), name in sorted(self._aliases.items()) if alias_kind == kind}

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Return the entries of one kind, or all, sorted by kind and name."""
        return [self._entries[key] for key in sorted(self._entries) if kind in (None, key[0])]

    @contextmanager
    def temporary(self) -> Iterator[Registry]:
        """Undo on exit whatever is registered inside the `with` block."""
        entries, aliases = dict(self._entries), dict(self._aliases)
        try:
            yield self
        finally:
            self._entries, self._aliases = entries, aliases

    def _refuse_taken(self, kind: str, name: str, provider: str) -> None:
        taken = self.find(kind, name)
        if taken is not None:
            raise NameConflictError(
                f"{provider!r} wants to register the {kind} {name!r}, which {taken.provider!r} has already registered; "
                "choose another name"
            )
