"""Checks of a plugin as a package: its manifest, names, docs and versions."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import requires
from typing import Any

from vitzoo.plugin import plugins
from vitzoo.registry import Entry
from vitzoo.testing.check import Check, Unavailable
from vitzoo.variants.table import Variant

HEAVY = ("torch", "triton", "torchvision", "timm", "transformers", "numpy")

# Run in a process of its own, where nothing else has imported anything.
MANIFEST = """
import json, sys
from importlib.metadata import entry_points
from vitzoo.plugin import GROUP, Registrar

class Spy(Registrar):
    asked = None
    def require_api(self, version):
        Spy.asked = version
        super().require_api(version)

(point,) = entry_points(group=GROUP, name={name!r})
spy = Spy({name!r})
point.load()(spy)
print(json.dumps({{"heavy": [name for name in {heavy!r} if name in sys.modules], "asked": spy.asked}}))
"""


def checks(plugin: str, entries: Sequence[Entry]) -> list[Check]:
    """Return the checks of a plugin's package."""
    functions: dict[str, Callable[[str, Sequence[Entry]], None]] = {
        "imports_no_torch": check_imports_no_torch,
        "versions": check_versions,
        "names": check_names,
        "docs": check_docs,
        "targets": check_targets,
    }
    return [
        Check(f"package/{plugin}:{name}", partial(function, plugin, entries)) for name, function in functions.items()
    ]


def check_imports_no_torch(plugin: str, entries: Sequence[Entry]) -> None:
    """The manifest imports nothing heavy, so that listing stays fast."""
    heavy = _manifest(plugin)["heavy"]
    assert not heavy, (
        f"its manifest imports {', '.join(heavy)}; targets are strings, 'package.module:attribute', imported at first "
        "use"
    )


def check_versions(plugin: str, entries: Sequence[Entry]) -> None:
    """The manifest states its plugin API, and the distribution its version and that it needs vitzoo."""
    asked = _manifest(plugin)["asked"]
    assert asked is not None, "its manifest does not call registrar.require_api(1), so a newer API could not refuse it"
    status = plugins()[plugin]
    assert status.version, f"the distribution {status.distribution!r} has no version"
    needed = [re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requires(status.distribution) or ()]
    assert status.distribution == "vitzoo" or "vitzoo" in needed, (
        f'the distribution {status.distribution!r} does not depend on vitzoo: dependencies = ["vitzoo"]'
    )


def check_names(plugin: str, entries: Sequence[Entry]) -> None:
    """Names say what a thing is, once."""
    for entry in entries:
        bare = entry.name.partition("/")[2] or entry.name
        assert not bare.endswith("_"), f"{entry.kind} {entry.name!r} ends in an underscore"
        assert "__" not in bare, f"{entry.kind} {entry.name!r} has two underscores in a row"
        assert not bare.startswith(f"{plugin}_"), (
            f"{entry.kind} {entry.name!r} repeats the plugin's name, which vitzoo puts in front"
        )


def check_docs(plugin: str, entries: Sequence[Entry]) -> None:
    """Everything has a line for listings, and its target a docstring."""
    for entry in entries:
        what = f"{entry.kind} {entry.name!r}"
        assert entry.doc.strip(), f"{what} has no doc: one line that listings show"
        assert "\n" not in entry.doc.strip(), f"the doc of {what} has several lines; listings show one"
        target = entry.load()
        if inspect.isclass(target) or inspect.isfunction(target):
            assert (target.__doc__ or "").strip(), f"the target of {what} has no docstring"


def check_targets(plugin: str, entries: Sequence[Entry]) -> None:
    """Every target can be imported, and can be called or is a table's row."""
    for entry in entries:
        target = entry.load()
        assert callable(target) or isinstance(target, Variant) or entry.kind == "weights", (
            f"the target of {entry.kind} {entry.name!r} is {target!r}, which cannot be called"
        )


def _manifest(plugin: str) -> dict[str, Any]:
    """Run the manifest in a fresh process and return what it did."""
    if plugin not in plugins():
        raise Unavailable("registered by a script: there is no package, and no manifest")
    code = MANIFEST.format(name=plugin, heavy=HEAVY)
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"in a fresh process its manifest fails:\n{done.stderr.strip()}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result
