"""What `vitzoo new-plugin` writes: a package that passes the conformance kit as it is."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitzoo.cli.app import app_for
from vitzoo.plugin import Registrar
from vitzoo.registry import KINDS as REGISTERED
from vitzoo.registry import Registry
from vitzoo.scaffold import KINDS, new_plugin
from vitzoo.testing import outcomes

runner = CliRunner(env={"COLUMNS": "200"})


def test_there_is_an_example_of_every_kind() -> None:
    assert set(KINDS) == set(REGISTERED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_the_kit(
    kind: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"new_{kind}"
    package = new_plugin(name, kind=kind, folder=tmp_path)
    monkeypatch.syspath_prepend(str(package))
    for module in [module for module in sys.modules if module.startswith("vitzoo_new_")]:
        monkeypatch.delitem(sys.modules, module)
    registrar = Registrar(name)
    import_module(f"vitzoo_{name}.manifest").register(registrar)
    registrar.commit(registry)
    # As it is not installed here, what is checked of a package is left to the packaging tests.
    found = list(outcomes(name, only=[f"{kind}/*"]))
    assert found
    assert [(outcome.id, outcome.detail) for outcome in found if outcome.bad] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_whole_and_says_what_it_is(kind: str, tmp_path: Path) -> None:
    package = new_plugin("acme", kind=kind, folder=tmp_path / "new")
    described = tomllib.loads((package / "pyproject.toml").read_text())
    assert described["project"]["name"] == package.name == "vitzoo-acme"
    assert described["project"]["entry-points"]["vitzoo.plugins"] == {"acme": "vitzoo_acme.manifest:register"}
    texts = {path: path.read_text() for path in package.rglob("*") if path.is_file()}
    assert not [path for path, text in texts.items() if "$" in text]
    for path in texts:
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(texts[path])) or path.parent.name == "tests", path
    assert f"acme/{KINDS[kind].component}" in texts[package / "README.md"]
    assert len(texts[package / "tests/test_acme.py"].split("\n")) == 4
    assert list((tmp_path / "new").iterdir()) == [package]


def test_a_folder_that_exists_is_not_touched_and_a_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    package = new_plugin("acme", folder=tmp_path)
    (package / "README.md").write_text("mine")
    for arguments, words in (
        (["acme"], "exists already and was not touched: choose another name"),
        (["Acme-2"], "a plugin cannot be named 'Acme-2' (possible: up to 40 lower case letters"),
        (["vitzoo"], "a plugin cannot be named 'vitzoo'"),
        (["other", "--kind", "mpl"], "unknown kind 'mpl' (possible: attention, block, mlp, model"),
    ):
        result = runner.invoke(app_for(()), ["new-plugin", *arguments, "--into", str(tmp_path)])
        assert words in str(result.exception)
    assert (package / "README.md").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [package]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new_plugin("acme", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    result = runner.invoke(app_for(()), ["new-plugin", "acme", "--kind", "pool", "--into", str(tmp_path)])
    assert result.exit_code == 0
    assert f"wrote {tmp_path / 'vitzoo-acme/vitzoo_acme/soft_max.py'}" in result.output
    assert "pip install -e ." in result.output
