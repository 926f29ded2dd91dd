"""Names: conflicts, near names, aliases, and undoing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import vitzoo
from vitzoo.errors import NameConflictError, PluginError, UnknownNameError
from vitzoo.plugin import get_entry
from vitzoo.registry import Entry, Registry


def entry(name: str = "part", target: Any = "math:sqrt", provider: str = "acme") -> Entry:
    return Entry(kind="norm", name=name, provider=provider, target=target)


def test_a_target_is_imported_at_first_use() -> None:
    registry = Registry()
    registry.add(entry(target="a_module_that_does_not_exist:thing"))
    found = registry.find("norm", "part")
    assert found is not None
    with pytest.raises(
        PluginError, match=r"norm 'part' is registered by 'acme' .* cannot be imported: ModuleNotFoundError: No module"
    ):
        found.load()
    with pytest.raises(PluginError, match="has no attribute 'cube_root'"):
        entry(target="math:cube_root").load()


@pytest.mark.parametrize("line", ["raise RuntimeError('no licence file')", "raise SystemExit('no licence file')"])
def test_a_target_whose_module_raises_is_a_plugin_error(tmp_path: Path, monkeypatch, line: str) -> None:
    (tmp_path / "acme_broken.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"as 'acme_broken:Shift', which cannot be imported: \w+: no licence file"):
        entry(target="acme_broken:Shift").load()


def test_a_target_that_cannot_be_called_is_a_plugin_error(registry: Registry) -> None:
    with pytest.raises(PluginError, match="as 'math:pi', which is a float and cannot be called"):
        entry(target="math:pi").load()
    registry.add(Entry(kind="model", name="lab/number", provider="lab", target="math:pi"))
    with pytest.raises(
        PluginError, match=r"model 'lab/number' is registered by 'lab' as a float \(possible: a function"
    ):
        vitzoo.create("lab/number")


def test_a_taken_name_raises_and_names_both() -> None:
    registry = Registry()
    registry.add(entry())
    with pytest.raises(NameConflictError, match="'other' wants to register the norm 'part', which 'acme' has already"):
        registry.add(entry(provider="other"))
    with pytest.raises(NameConflictError):
        registry.add_alias("norm", "part", "part", provider="other")
    assert registry.names("norm") == ["part"]


@pytest.mark.parametrize("target", ["math.sqrt", "math:", ":sqrt", "math:sqrt:x", "os;math:sqrt", "math:sqrt()"])
def test_a_malformed_target_raises(target: str) -> None:
    with pytest.raises(ValueError, match=r"is not 'package\.module:attribute'"):
        Registry().add(entry(target=target))


def test_aliases_resolve_and_are_not_listed() -> None:
    registry = Registry()
    registry.add(entry("long_name"))
    registry.add_alias("norm", "short", "long_name", provider="acme")
    found = registry.find("norm", "short")
    assert found is not None
    assert found.name == "long_name"
    assert registry.names("norm") == ["long_name"]
    assert registry.aliases("norm") == {"short": "long_name"}
    with pytest.raises(UnknownNameError, match="points at the norm 'nothing', which is not registered"):
        registry.add_alias("norm", "broken", "nothing", provider="acme")


def test_temporary_registrations_are_undone() -> None:
    registry = Registry()
    with registry.temporary():
        registry.add(entry())
        registry.add_alias("norm", "short", "part", provider="acme")
    assert registry.entries() == []
    assert registry.aliases("norm") == {}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("model", "vit_smal_patch16_224", "unknown model 'vit_smal_patch16_224'. Did you mean 'vit_small_patch16_224'"),
        ("mlp", "swiglu_pack", "unknown mlp 'swiglu_pack'. Did you mean 'swiglu_packed' or 'swiglu'?"),
        ("model", "zzzzzz", "unknown model 'zzzzzz'. vitzoo.list_models() gives them all."),
        ("rope", "zzz", "unknown rope 'zzz'. Known: axial, dinov3, mixed, none."),
        ("norms", "layernorm", "unknown kind 'norms'. Did you mean 'norm'"),
        ("pool", "acme/best", "pool 'acme/best' belongs to a plugin named 'acme', which is not installed: install"),
    ],
)
def test_an_unknown_name_raises_with_near_names(kind: str, name: str, words: str) -> None:
    with pytest.raises((UnknownNameError, PluginError), match=re.escape(words)):
        get_entry(kind, name)


def test_register_puts_an_object_under_its_namespace(registry: Registry) -> None:
    @vitzoo.register("norm", "lab/shift")
    def shift(width: int) -> None:
        """Shift by the mean."""

    found = registry.find("norm", "lab/shift")
    assert found is not None
    assert (found.load(), found.provider, found.doc) == (shift, "lab", "Shift by the mean.")
    assert "lab/shift" in vitzoo.list_components("norm")
    with pytest.raises(NameConflictError):
        vitzoo.register("norm", "lab/shift")(shift)
    with pytest.raises(UnknownNameError, match="plugin 'lab' has no norm 'lab/shfit'. Did you mean 'lab/shift'"):
        get_entry("norm", "lab/shfit")


def test_a_registration_says_of_itself_only_what_one_can(registry: Registry) -> None:
    with pytest.raises(TypeError, match="attention 'lab/plain' is registered with caps=3, which is no AttentionCaps"):
        vitzoo.register("attention", "lab/plain", caps=3)


@pytest.mark.parametrize("name", ["shift", "lab/", "/shift", "lab/Shift", "a/b/c", "lab/sh-ift"])
def test_a_bare_or_malformed_name_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid norm name: write 'namespace/name'"):
        vitzoo.register("norm", name)


def test_listing_models_by_pattern_plugin_and_licence() -> None:
    every = vitzoo.list_models()
    assert every == sorted(set(every))
    assert "vit_small_patch16_224" in every
    assert vitzoo.list_models("vit_small_patch16_*") == [
        name for name in every if name.startswith("vit_small_patch16_")
    ]
    assert vitzoo.list_models(plugin="vitzoo") == [name for name in every if "/" not in name]
    assert all("." in name for name in vitzoo.list_models("vit_*.*"))
    with pytest.raises(
        UnknownNameError, match=r"has the licence 'gpl' \(kinds: permissive, non-commercial, .*apache-2\.0,"
    ):
        vitzoo.list_models(license="gpl")
    with pytest.raises(UnknownNameError, match="unknown plugin 'acme'"):
        vitzoo.list_models(plugin="acme")
    with pytest.raises(UnknownNameError, match="unknown kind of component 'model'"):
        vitzoo.list_components("model")
