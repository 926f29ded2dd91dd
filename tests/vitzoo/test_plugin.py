"""Discovery: what becomes of a plugin that is fine, broken, foreign, doubled or switched off."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vitzoo.errors import PluginError
from vitzoo.plugin import PluginStatus, Registrar, discover, register, requirements
from vitzoo.registry import Registry

MANIFESTS = {
    "good": "def register(r):\n    r.require_api(1)\n    r.add('norm', 'shift', 'acme_norms:Shift', doc='shifts')\n",
    "raises": "def register(r):\n    r.add('norm', 'half', 'a:b')\n    raise RuntimeError('no licence file')\n",
    "future": "def register(r):\n    r.require_api(99)\n",
    "twice": "def register(r):\n    r.add('norm', 'x', 'a:b')\n    r.add('norm', 'x', 'a:c')\n",
    "badkind": "def register(r):\n    r.add('norms', 'x', 'a:b')\n",
    "exits": "import sys\nsys.exit('needs a licence key')\n",
    "badcaps": "def register(r):\n    r.add('attention', 'x', 'a:b', caps={'devices': ('cpu',)})\n",
    "nolicense": "def register(r):\n    r.add('model', 'x', 'a:b', license=None)\n",
    "typo": "def register(r):\n    r.add('model', 'x', 'a:b', licence='mit')\n",
    "unimportable": "import a_module_that_does_not_exist\n",
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a distribution with plugins importable: install('dist', '1.0', {'acme': 'good'})."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("VITZOO_PLUGINS", raising=False)
    # Where vitzoo is installed, its own plugins are there too.
    monkeypatch.setattr(
        "vitzoo.plugin.entry_points",
        lambda group: [point for point in entry_points(group=group) if point.dist and point.dist.name != "vitzoo"],
    )

    def write(distribution: str, version: str, plugins: dict[str, str]) -> None:
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {distribution}_{name}_manifest:register" for name in plugins]
        (info / "entry_points.txt").write_text("[vitzoo.plugins]\n" + "\n".join(lines) + "\n")
        for name, manifest in plugins.items():
            module = f"{distribution}_{name}_manifest"
            (tmp_path / f"{module}.py").write_text(MANIFESTS[manifest])
            monkeypatch.delitem(sys.modules, module, raising=False)

    return write


def statuses(registry: Registry) -> tuple[dict[str, PluginStatus], list[str]]:
    """Discover into `registry`; return the statuses and the words of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = discover(registry)
    return {status.name: status for status in found}, [str(item.message) for item in caught]


def test_a_good_plugin_is_loaded_under_its_namespace(install) -> None:
    install("acmepkg", "1.2", {"acme": "good"})
    registry = Registry()
    found, words = statuses(registry)
    assert found["acme"] == PluginStatus(
        name="acme", state="loaded", distribution="acmepkg", version="1.2", provides=("norm acme/shift",)
    )
    assert registry.names("norm") == ["acme/shift"]
    assert words == []


@pytest.mark.parametrize(
    ("manifest", "state", "detail"),
    [
        ("raises", "failed", "RuntimeError: no licence file"),
        ("exits", "failed", "SystemExit: needs a licence key"),
        (
            "badcaps",
            "failed",
            "attention 'acme/x' is registered with caps={'devices': ('cpu',)}, which is no AttentionC",
        ),
        ("nolicense", "failed", "model 'acme/x' is registered with license=None, which is no str"),
        ("typo", "failed", "model 'acme/x' is registered with an unknown licence=. Did you mean 'license'?"),
        ("unimportable", "failed", "ModuleNotFoundError: No module named 'a_module_that_does_not_exist'"),
        ("badkind", "failed", "UnknownNameError: unknown kind 'norms'"),
        ("future", "incompatible", "plugin 'acme' needs plugin API 99; this vitzoo has 1"),
        ("twice", "conflict", "'acme' wants to register the norm 'acme/x', which 'acme' has already registered"),
    ],
)
def test_a_broken_plugin_is_one_warning_and_a_status_and_leaves_nothing(install, manifest, state, detail) -> None:
    install("acmepkg", "1.2", {"acme": manifest, "fine": "good"})
    registry = Registry()
    found, words = statuses(registry)
    assert found["acme"].state == state
    assert detail in found["acme"].detail
    assert len(words) == 1
    assert words[0].startswith(f"vitzoo plugin 'acme' is not available ({state})")
    assert found["fine"].state == "loaded"
    assert registry.names("norm") == ["fine/shift"]


def test_one_name_by_two_distributions_is_a_conflict_that_names_both(install) -> None:
    install("first", "1.0", {"acme": "good"})
    install("second", "2.0", {"acme": "good"})
    registry = Registry()
    found, words = statuses(registry)
    assert found["acme"].state == "conflict"
    assert "the distributions first and second all provide a plugin named 'acme'" in found["acme"].detail
    assert len(words) == 1
    assert registry.entries() == []


@pytest.mark.parametrize(("value", "loaded"), [(None, ["acme", "other"]), ("", []), ("other", ["other"])])
def test_the_environment_chooses_plugins(install, monkeypatch, value: str | None, loaded: list[str]) -> None:
    install("acmepkg", "1.2", {"acme": "good", "other": "good"})
    if value is not None:
        monkeypatch.setenv("VITZOO_PLUGINS", value)
    found, words = statuses(Registry())
    assert [name for name, status in found.items() if status.state == "loaded"] == loaded
    assert {status.state for status in found.values()} <= {"loaded", "disabled"}
    assert words == []


def test_a_plugin_the_environment_names_but_nobody_provides_is_reported(install, monkeypatch) -> None:
    monkeypatch.setenv("VITZOO_PLUGINS", "ghost")
    found, words = statuses(Registry())
    assert found["ghost"].state == "failed"
    assert "VITZOO_PLUGINS names it, but no installed package provides it" in words[0]


def test_a_registrar_refuses_names_with_a_namespace_of_their_own() -> None:
    with pytest.raises(ValueError, match="is not a valid norm name: write 'name'"):
        Registrar("acme").add("norm", "other/shift", "a:b")


@pytest.mark.parametrize("name", ["vitzoo", "Acme"])
def test_a_plugin_of_a_reserved_or_malformed_name_is_refused(install, name: str) -> None:
    install("acmepkg", "1.2", {name: "good", "fine": "good"})
    registry = Registry()
    found, _ = statuses(registry)
    assert (found[name].state, found["fine"].state) == ("failed", "loaded")
    assert f"a plugin cannot be named {name!r} (possible: lower case letters" in found[name].detail
    assert registry.names("norm") == ["fine/shift"]
    with pytest.raises(ValueError, match="a plugin cannot be named 'vitzoo'"):
        register("norm", "vitzoo/shift")


def test_nothing_is_committed_when_one_entry_cannot_be() -> None:
    registry = Registry()
    first = Registrar("acme")
    first.add("norm", "shift", "a:b")
    first.commit(registry)
    second = Registrar("acme")
    second.add("norm", "fresh", "a:b")
    second.add("norm", "shift", "a:b")
    with pytest.raises(ValueError, match="already registered"):
        second.commit(registry)
    assert registry.names("norm") == ["acme/shift"]


def test_requirements_name_the_plugins_of_the_names() -> None:
    names = ["layernorm", "lab/shift", "lab/other"]
    assert requirements(names) == {"lab": {"distribution": None, "version": None}}


def test_incompatible_api_is_a_plugin_error() -> None:
    with pytest.raises(PluginError, match="install a version of the plugin made for API 1"):
        Registrar("acme").require_api(2)
