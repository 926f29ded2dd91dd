"""What there is to create: listing and looking up names. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError, PluginError, UnknownNameError, near_names, suggestion
from vitzoo.licenses import KINDS as LICENSE_KINDS
from vitzoo.licenses import UNSTATED, kind_of
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
    if ":" in name:
        raise UnknownNameError(
            f"{name!r} is a place of weights, not a model: vitzoo.load('hf-hub:org/name') builds the model that lies "
            "there, vitzoo.create(model, weights='hf-hub:org/name') one that you name"
        )
    base, dot, tag_name = name.partition(".")
    entry = get_entry("model", base)
    target = entry.load()
    if not isinstance(target, Variant) and not callable(target):
        raise PluginError(
            f"model {entry.name!r} is registered by {entry.provider!r} as a {type(target).__name__} "
            "(possible: a function that builds the model, or a Variant)"
        )
    if not dot:
        return Found(name=entry.name, entry=entry, target=target, tag=None)
    tags = target.tags if isinstance(target, Variant) else {}
    if tag_name not in tags:
        known = suggestion(tag_name, list(tags)) if tags else " It has no tags."
        raise UnknownNameError(f"model {entry.name!r} has no tag {tag_name!r}.{known}")
    return Found(name=f"{entry.name}.{tag_name}", entry=entry, target=target, tag=tags[tag_name])


def find_default(name: str) -> Found:
    """Look up the public checkpoint of a model: that of the tag in its name, or of its variant's default tag.

    Args:
        name: as for `find_model`.

    Raises:
        UnknownNameError: no such model or tag.
        CheckpointError: the model has no public checkpoint that vitzoo can fetch; the message lists those there are.
    """
    found = find_model(name)
    if found.tag is not None and found.tag.weights is not None:
        return found
    if found.tag is None and isinstance(found.target, Variant) and found.target.default_tag is not None:
        return find_model(f"{found.name}.{found.target.default_tag}")
    if found.tag is not None:
        lacks = f"the weights of {found.name!r} are not in a form that vitzoo reads; their source is {found.tag.url}"
    else:
        tags = found.target.tags if isinstance(found.target, Variant) else {}
        at = f" that vitzoo reads; there are {', '.join(tag.url for tag in tags.values())}" if tags else ""
        lacks = f"{found.name!r} has no known public checkpoint{at}"
    possible = list_models(pretrained=True)
    bases = near_names(found.entry.name, {full.partition(".")[0] for full in possible})
    near = [full for full in possible if full.partition(".")[0] in bases]
    raise CheckpointError(
        f"{lacks}. Checkpoints of models with near names: {', '.join(near) or 'none'}; "
        "vitzoo.list_models(pretrained=True) lists all"
    )


def checkpoint_of(source: str) -> tuple[str, Tag] | None:
    """Return ('variant.tag', its row) of the checkpoint that is read from `source`, or None when no table has it."""
    for entry in get_registry().entries("model"):
        tags = entry.target.tags if isinstance(entry.target, Variant) else {}
        for name, tag in tags.items():
            if tag.weights == source:
                return f"{entry.name}.{name}", tag
    return None


def list_models(
    pattern: str = "*", *, plugin: str | None = None, license: str | None = None, pretrained: bool = False
) -> list[str]:
    """Return the names that `create` takes, sorted.

    Args:
        pattern: shell-style, '*dinov2*'. With a dot in it, names with tags are matched and returned: 'vit_base*.*'.
        plugin: only what this plugin brings; 'vitzoo' for the built-in variants.
        license: a licence such as 'apache-2.0', or a kind of licence: 'permissive', 'non-commercial', 'custom' (terms
            of its own) or 'not stated'. A name with a tag is judged by its tag, one without by the weights that
            `create(name, weights="default")` reads, or by its family's when there are none.
        pretrained: only names with tags, of the checkpoints that `create(name, weights="default")` can fetch; a pattern
            without a dot matches the part before it.

    Raises:
        UnknownNameError: no such plugin, or no model has such a licence.
    """
    entries = get_registry().entries("model")
    if plugin is not None:
        providers = {entry.provider for entry in get_registry().entries()} | set(plugins())
        if plugin not in providers:
            raise UnknownNameError(f"unknown plugin {plugin!r}.{suggestion(plugin, sorted(providers))}")
        entries = [entry for entry in entries if entry.provider == plugin]
    if pretrained and "." not in pattern:
        pattern = f"{pattern}.*"
    licenses = _licenses(entries, tagged="." in pattern, pretrained=pretrained)
    if license is not None:
        every = get_registry().entries("model")
        known = sorted({*_licenses(every, tagged=False).values(), *_licenses(every, tagged=True).values()})
        if license not in LICENSE_KINDS and license not in known:
            raise UnknownNameError(
                f"no model has the licence {license!r} "
                f"(kinds: {', '.join(LICENSE_KINDS)}; licences: {', '.join(known)})"
            )
        licenses = {name: own for name, own in licenses.items() if license in (own, kind_of(own))}
    return sorted(name for name in licenses if fnmatchcase(name, pattern))


def _licenses(entries: list[Entry], *, tagged: bool, pretrained: bool = False) -> dict[str, str]:
    """Return {name: licence} of variants and plugins' models, or of tags, all or those that can be fetched."""
    licenses = {}
    for entry in entries:
        # Plugins' targets stay unimported: listing must not run their code.
        if not isinstance(entry.target, Variant):
            if not tagged:
                licenses[entry.name] = entry.meta.get("license", UNSTATED)
        elif not tagged:
            licenses[entry.name] = entry.target.license
        else:
            for name, tag in entry.target.tags.items():
                if not pretrained or tag.weights is not None:
                    licenses[f"{entry.name}.{name}"] = tag.license
    return licenses


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
