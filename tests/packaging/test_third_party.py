"""What happens to a stranger's plugin: generated, built, installed, used, removed, outdated, and doubled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.packaging.conftest import ROOT, Environment

CREATE = """
import torch, vitzoo
print(vitzoo.list_components("mlp"))
model = vitzoo.create("vit_tiny", img_size=32, depth=1, mlp=("acme/squared_relu", {"power": 3.0})).eval()
vitzoo.save(model, "model")
torch.save(model(torch.ones(1, 3, 32, 32)), "logits.pt")
"""
LOAD = """
import torch, vitzoo
model = vitzoo.load("model").eval()
print(torch.equal(model(torch.ones(1, 3, 32, 32)), torch.load("logits.pt")), model.blocks[0].mlp.power)
"""
# Nothing but what was asked for may be said of a plugin that is not used.
BUILT_IN = """
import torch, vitzoo
print(vitzoo.create("vit_tiny", img_size=32, depth=1)(torch.ones(1, 3, 32, 32)).shape)
"""


def test_the_commands_of_the_plugin_guide_work(environment: Environment) -> None:
    text = (ROOT / "plugins/README.md").read_text().partition("## From nothing to a published plugin")[2]
    block = text.partition("\n    ")[2].partition("\n\n")[0]
    lines = [line.strip() for line in block.splitlines()]
    assert lines[0].startswith("vitzoo new-plugin")
    assert lines.pop().startswith("twine upload")  # which needs an index and its password
    folder = environment.folder
    for line in lines:
        if line.startswith("cd "):
            folder = folder / line.removeprefix("cd ")
        else:
            environment.shell(line, folder)
    assert sorted(path.suffix for path in (folder / "dist").iterdir()) == [".gz", ".whl"]


def statuses(environment: Environment) -> dict[str, dict[str, str]]:
    """Return {plugin: its status} as the command prints it."""
    done = environment.vitzoo("plugins", "--json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_a_plugin_is_installed_used_saved_with_and_asked_for_when_it_is_gone(
    environment: Environment, make_plugin: Callable[..., Path]
) -> None:
    environment.install(make_plugin("acme"))
    assert statuses(environment)["acme"]["state"] == "loaded"
    assert "acme/squared_relu" in environment.code(CREATE)
    assert environment.code(LOAD).split() == ["True", "3.0"]
    described = json.loads((environment.folder / "model/config.json").read_text())
    assert described["requires"] == {"acme": {"distribution": "vitzoo-acme", "version": "0.1.0"}}

    environment.pip("uninstall", "--yes", "vitzoo-acme")
    assert "acme" not in statuses(environment)
    done = environment.vitzoo("convert", "model", "other", "--to", "vitzoo")
    assert done.returncode == 1
    assert "needs plugin 'acme', which is not installed: pip install vitzoo-acme==0.1.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (environment.folder / "other").exists()


def test_four_plugins_of_which_three_cannot_be_taken_are_shown_and_the_rest_of_the_zoo_works(
    environment: Environment, make_plugin: Callable[..., Path]
) -> None:
    good, broken = make_plugin("good"), make_plugin("broken", **{"registrar.require_api(1)": "raise KeyError('lost')"})
    outdated = make_plugin("outdated", version="9.0.0", **{"require_api(1)": "require_api(2)"})
    twice = [make_plugin("acme"), make_plugin("acme", distribution="acme-fork", version="2.0.0")]
    environment.install(good, broken, outdated, *twice)

    found = {name: (row["state"], row["detail"]) for name, row in statuses(environment).items()}
    assert found["good"] == ("loaded", "")
    assert found["broken"] == ("failed", "KeyError: 'lost'")
    assert found["outdated"] == (
        "incompatible",
        "plugin 'outdated' needs plugin API 2; this vitzoo has 1: install a version of the plugin made for API 1",
    )
    assert found["acme"] == (
        "conflict",
        "the distributions acme-fork and vitzoo-acme all provide a plugin named 'acme'; uninstall one",
    )
    shown = environment.vitzoo("plugins")
    assert shown.returncode == 0
    assert all(detail in shown.stdout for _, detail in found.values())
    assert "Traceback" not in shown.stderr
    assert "torch.Size([1, 1000])" in environment.code(BUILT_IN)
    environment.code("import vitzoo; vitzoo.create('vit_tiny', depth=1, mlp='good/squared_relu')")
    done = environment.vitzoo("check", "acme")
    assert done.returncode == 1
    assert "plugin 'acme' is not available (conflict): the distributions acme-fork and vitzoo-acme" in done.stderr


def test_a_checkpoint_survives_an_upgrade_to_an_incompatible_plugin(
    environment: Environment, make_plugin: Callable[..., Path]
) -> None:
    environment.install(make_plugin("acme"))
    environment.code(CREATE)
    environment.install(make_plugin("acme", version="2.0.0", **{"require_api(1)": "require_api(2)"}))
    done = environment.vitzoo("convert", "model", "other", "--to", "vitzoo")
    assert done.returncode == 1
    assert "needs plugin 'acme', which is not available (incompatible)" in done.stderr
    environment.install(make_plugin("acme", version="2.1.0"))
    assert environment.code(LOAD).split() == ["True", "3.0"]
