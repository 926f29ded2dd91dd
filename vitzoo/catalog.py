"""What there is to create: listing and looking up names. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.errors import UnknownNameError, suggestion
from vitzoo.plugin import get_entry, get_registry, plugins
from vitzoo.preprocess import Preprocess
from vitzoo.registry import KINDS, Entry
from vitzoo.variants.table import Tag, Variant


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model name stands for.

    Args:
        name: the full name, aliases resolved, with its '.tag' if one was asked for.
        entry: its entry in the registry.
        target: a Variant, or a plugin's function that builds a model.
        tag: the tag's row, or None.
    """

    name: str
    entry: Entry
    target: Any
    tag: Tag | None

    @property
    def config(self) -> ViTConfig | None:
        """The settings, with the tag's own; None for a plugin's function."""
        if not isinstance(self.target, Variant):
            return None
        return self.target.config if self.tag is None else self.target.config.with_changes(**self.tag.changes)

    @property
    def preprocess(self) -> Preprocess | None:
        """What its images are expected to be; None for a plugin's function."""
        if self.tag is not None:
            return self.tag.preprocess
        return self.target.preprocess if isinstance(self.target, Variant) else None


def find_model(name: str) -> Found:
    """Look a model name up.

    Args:
        name: 'variant', 'variant.tag', an alias, or 'plugin/name'.

    Raises:
        UnknownNameError: no such model or tag; the message holds the near names.
        PluginError: the name belongs to a plugin that is missing or broken.
    """
    base, dot, tag_name = name.partition(".")
    entry = get_entry("model", base)
    target = entry.load()
    if not dot:
        return Found(name=entry.name, entry=entry, target=target, tag=None)
    tags = target.tags if isinstance(target, Variant) else {}
    if tag_name not in tags:
        known = suggestion(tag_name, list(tags)) if tags else " It has no tags."
        raise UnknownNameError(f"model {entry.name!r} has no tag {tag_name!r}.{known}")
    return Found(name=f"{entry.name}.{tag_name}", entry=entry, target=target, tag=tags[tag_name])


def list_models(pattern: str = "*", *, plugin: str | None = None, license: str | None = None) -> list[str]:
    """Return the names that `create` takes, sorted.

    Args:
        pattern: shell-style, '*dinov2*'. With a dot in it, names with tags are matched and returned: 'vit_base*.*'.
        plugin: only what this plugin brings; 'vitzoo' for the built-in variants.
        license: only models whose public weights have this licence, such as 'apache-2.0'; with a dot in the pattern,
            only tags that have it.

    Raises:
        UnknownNameError: no such plugin.
    """
    entries = get_registry().entries("model")
    if plugin is not None:
        providers = {entry.provider for entry in get_registry().entries()} | set(plugins())
        if plugin not in providers:
            raise UnknownNameError(f"unknown plugin {plugin!r}.{suggestion(plugin, sorted(providers))}")
        entries = [entry for entry in entries if entry.provider == plugin]
    names = []
    for entry in entries:
        # Plugins' targets stay unimported: listing must not run their code.
        tags = entry.target.tags if isinstance(entry.target, Variant) else {}
        own = entry.target.license if isinstance(entry.target, Variant) else entry.meta.get("license", "")
        if "." in pattern:
            names += [f"{entry.name}.{name}" for name, tag in tags.items() if license in (None, tag.license)]
        elif license is None or license in {own, *(tag.license for tag in tags.values())}:
            names.append(entry.name)
    return sorted(name for name in names if fnmatchcase(name, pattern))


def list_components(kind: str | None = None) -> list[str]:
    """Return the registered names of a kind, or 'kind name' of every component, sorted.

    Args:
        kind: 'attention', 'block', 'mlp', 'norm', 'patch_embed', 'pool', 'pos_embed', 'rope' or 'weights'.

    Raises:
        UnknownNameError: no such kind.
    """
    kinds = [known for known in KINDS if known != "model"]
    if kind is None:
        return [f"{entry.kind} {entry.name}" for entry in get_registry().entries() if entry.kind in kinds]
    if kind not in kinds:
        raise UnknownNameError(f"unknown kind of component {kind!r}.{suggestion(kind, kinds)}")
    return get_registry().names(kind)
