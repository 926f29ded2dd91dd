"""Plugins: the door through which every name enters the registry, vitzoo's own included.

A plugin is a distribution with an entry point in the group `vitzoo.plugins` that names a function
`register(registrar)`. Discovery happens at the first look-up, in sorted order; a plugin is taken whole or not at all.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NoReturn, TypeVar

from vitzoo.errors import NameConflictError, PluginError, UnknownNameError, suggestion
from vitzoo.registry import KINDS, Entry, Registry, check_meta, check_name, check_namespace

API_VERSION = 1
GROUP = "vitzoo.plugins"

T = TypeVar("T")
State = Literal["loaded", "failed", "incompatible", "conflict", "disabled"]


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """What became of one installed plugin.

    Args:
        name: its entry point's name, the namespace of all that it registers.
        state: loaded, failed (its code raised), incompatible (made for another API), conflict, or disabled.
        distribution: the pip package that brings it.
        version: that package's version.
        detail: why it is not loaded; empty when it is.
        provides: 'kind name' of all that it registered.
    """

    name: str
    state: State
    distribution: str
    version: str
    detail: str = ""
    provides: tuple[str, ...] = ()


class IncompatibleAPIError(PluginError):
    """A plugin asks for a version of the plugin API that this vitzoo does not have."""


class Registrar:
    """What a plugin's `register` function is handed: it collects entries under the plugin's own namespace.

    Args:
        namespace: prefix of every name; empty for vitzoo's own manifest.

    Raises:
        ValueError: the namespace is malformed, or 'vitzoo'.
    """

    def __init__(self, namespace: str) -> None:
        if namespace:
            check_namespace(namespace)
        self.namespace = namespace
        self.entries: list[Entry] = []
        self.aliases: list[tuple[str, str, str]] = []

    def require_api(self, version: int) -> None:
        """State the plugin API the plugin was written for.

        Raises:
            IncompatibleAPIError: this vitzoo has another one.
        """
        if version != API_VERSION:
            raise IncompatibleAPIError(
                f"plugin {self.namespace!r} needs plugin API {version}; this vitzoo has {API_VERSION}: "
                f"install a version of the plugin made for API {API_VERSION}"
            )

    def add(self, kind: str, name: str, target: Any, *, doc: str = "", **meta: Any) -> None:
        """Register one thing as `namespace/name`.

        Args:
            kind: one of `vitzoo.registry.KINDS`.
            name: lower case letters, digits and underscores, without the namespace.
            target: 'package.module:attribute', imported at first use; or the object, when it is plain data.
            doc: one line for listings.
            **meta: what the kind asks for besides; `caps` for an attention backend.

        Raises:
            UnknownNameError: there is no such kind.
            ValueError: the name is malformed.
            TypeError: `meta` holds what no kind asks for, or a value of another type.
        """
        check_name(kind, name, namespaced=False)
        check_meta(kind, self._qualified(name), {"doc": doc, **meta})
        provider = self.namespace or "vitzoo"
        self.entries.append(
            Entry(kind=kind, name=self._qualified(name), provider=provider, target=target, doc=doc, meta=meta)
        )

    def alias(self, kind: str, alias: str, name: str) -> None:
        """Let `namespace/alias` stand for `namespace/name`, which this registrar adds."""
        check_name(kind, alias, namespaced=False)
        self.aliases.append((kind, self._qualified(alias), self._qualified(name)))

    def commit(self, registry: Registry) -> tuple[str, ...]:
        """Put all that was collected into `registry`, or nothing when a part of it cannot be."""
        staged = Registry()
        for entry in self.entries:
            staged.add(entry)
            taken = registry.find(entry.kind, entry.name)
            if taken is not None:
                raise NameConflictError(
                    f"{entry.provider!r} wants to register the {entry.kind} {entry.name!r}, "
                    f"which {taken.provider!r} has already registered"
                )
        for kind, alias, name in self.aliases:
            staged.add_alias(kind, alias, name, provider=self.namespace or "vitzoo")
        for entry in self.entries:
            registry.add(entry)
        for kind, alias, name in self.aliases:
            registry.add_alias(kind, alias, name, provider=self.namespace or "vitzoo")
        return tuple(f"{entry.kind} {entry.name}" for entry in self.entries)

    def _qualified(self, name: str) -> str:
        return f"{self.namespace}/{name}" if self.namespace else name


_lock = threading.RLock()


@cache
def _installed() -> tuple[Registry, dict[str, PluginStatus]]:
    registry = Registry()
    return registry, {status.name: status for status in discover(registry)}


@cache
def _complete() -> Registry:
    # Plugins' names have namespaces and vitzoo's have none, so the order of the two decides nothing.
    registry, _ = _installed()
    builtin = Registrar("")
    from vitzoo._builtin import register as register_builtin

    register_builtin(builtin)
    builtin.commit(registry)
    return registry


def get_registry() -> Registry:
    """Return the process's registry, filling it from vitzoo's manifest and the installed plugins at the first call."""
    with _lock:
        return _complete()


def plugins() -> dict[str, PluginStatus]:
    """Return {plugin name: PluginStatus} of all installed plugins, sorted by name."""
    with _lock:
        return dict(sorted(_installed()[1].items()))


def get_entry(kind: str, name: str) -> Entry:
    """Return the entry of that kind and name.

    Raises:
        UnknownNameError: nothing has that name; the message holds the near names.
        PluginError: the name belongs to a plugin that is not installed, failed, or is disabled.
    """
    registry = get_registry()
    entry = registry.find(kind, name)
    if entry is None:
        _raise_unknown(registry, kind, name)
    return entry


def register(kind: str, name: str, *, doc: str = "", **meta: Any) -> Callable[[T], T]:
    """Register an object from a script or a notebook; a decorator.

    Args:
        kind: one of `vitzoo.registry.KINDS`.
        name: 'namespace/name'; bare names belong to vitzoo.
        doc: one line for listings; the first line of the object's docstring when empty.
        **meta: what the kind asks for besides; `caps` for an attention backend.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        NameConflictError: the name is taken.
        ValueError: the name has no namespace or is malformed, or the namespace is 'vitzoo'.
        TypeError: `meta` holds what no kind asks for, or a value of another type.
    """
    check_name(kind, name, namespaced=True)
    check_meta(kind, name, {"doc": doc, **meta})
    check_namespace(name.partition("/")[0])

    def add(target: T) -> T:
        line = doc or (getattr(target, "__doc__", None) or "").strip().partition("\n")[0]
        provider = name.partition("/")[0]
        get_registry().add(Entry(kind=kind, name=name, provider=provider, target=target, doc=line, meta=meta))
        return target

    return add


def discover(registry: Registry) -> list[PluginStatus]:
    """Commit every installed and enabled plugin to `registry`; one warning for each that cannot be taken."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    wanted = os.environ.get("VITZOO_PLUGINS")
    enabled = None if wanted is None else {name.strip() for name in wanted.split(",") if name.strip()}

    statuses = [_take(registry, name, found[name], enabled) for name in sorted(found)]
    statuses += [_absent(name) for name in sorted((enabled or set()) - set(found))]
    for status in statuses:
        if status.state not in ("loaded", "disabled"):
            warnings.warn(
                f"vitzoo plugin {status.name!r} is not available ({status.state}): {status.detail}",
                RuntimeWarning,
                stacklevel=2,
            )
    return statuses


def _take(registry: Registry, name: str, points: list[EntryPoint], enabled: set[str] | None) -> PluginStatus:
    packages = sorted({(point.dist.name, point.dist.version) if point.dist else ("", "") for point in points})
    distribution = " and ".join(package for package, _ in packages)
    version = " and ".join(version for _, version in packages)

    def status(state: State, detail: str = "", provides: tuple[str, ...] = ()) -> PluginStatus:
        return PluginStatus(
            name=name, state=state, distribution=distribution, version=version, detail=detail, provides=provides
        )

    if enabled is not None and name not in enabled:
        return status("disabled", "VITZOO_PLUGINS does not name it")
    if len(packages) > 1:
        return status(
            "conflict", f"the distributions {distribution} all provide a plugin named {name!r}; uninstall one"
        )
    try:
        registrar = Registrar(name)
        points[0].load()(registrar)
        return status("loaded", provides=registrar.commit(registry))
    except IncompatibleAPIError as error:
        return status("incompatible", str(error))
    except NameConflictError as error:
        return status("conflict", str(error))
    except (Exception, SystemExit) as error:  # a stranger's code may raise or exit, and must not stop the zoo
        return status("failed", f"{type(error).__name__}: {error}")


def _absent(name: str) -> PluginStatus:
    detail = "VITZOO_PLUGINS names it, but no installed package provides it"
    return PluginStatus(name=name, state="failed", distribution="", version="", detail=detail)


def _raise_unknown(registry: Registry, kind: str, name: str) -> NoReturn:
    if kind not in KINDS:
        raise UnknownNameError(f"unknown kind {kind!r}.{suggestion(kind, KINDS)}")
    known = registry.names(kind) + list(registry.aliases(kind))
    namespace, slash, _ = name.partition("/")
    if not slash:
        listing = "list_models()" if kind == "model" else f"list_components({kind!r})"
        hint = suggestion(name, known) or f" vitzoo.{listing} gives them all."
        raise UnknownNameError(f"unknown {kind} {name!r}.{hint}")
    status = plugins().get(namespace)
    if status is None and not any(entry.provider == namespace for entry in registry.entries()):
        raise PluginError(
            f"{kind} {name!r} belongs to a plugin named {namespace!r}, which is not installed: install the package "
            f"that provides it, or run the code that registers it, first.{suggestion(name, known)}"
        )
    if status is not None and status.state != "loaded":
        raise PluginError(
            f"{kind} {name!r} is of plugin {namespace!r} of {status.distribution or 'no package'} {status.version}, "
            f"which is not available ({status.state}): {status.detail}"
        )
    own = [known_name for known_name in known if known_name.startswith(f"{namespace}/")]
    raise UnknownNameError(f"plugin {namespace!r} has no {kind} {name!r}.{suggestion(name, own)}")


def requirements(names: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Return {plugin: {distribution, version}} for the namespaces in `names`, as a checkpoint's `requires` holds it."""
    statuses = plugins()
    namespaces = sorted({name.partition("/")[0] for name in names if "/" in name})
    return {
        namespace: {
            "distribution": statuses[namespace].distribution if namespace in statuses else None,
            "version": statuses[namespace].version if namespace in statuses else None,
        }
        for namespace in namespaces
    }
