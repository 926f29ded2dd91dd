"""The kit catches a format of weights, or a package, that is wrong in one way, and says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from wrong import failed, fault, outcomes_of

import vitzoo
from vitzoo.registry import Registry
from vitzoo.testing.check import run
from vitzoo.testing.collect import checks_of
from vitzoo.weights.formats.base import Reading, Writing, require


class Student:
    """A plain ViT with every name behind 'student.'."""

    def reasons_against(self, source: Any) -> list[str]:
        return [] if "student.cls_token" in source.state else ["no student.cls_token"]

    def read(self, source: Any, hints: Mapping[str, Any]) -> Reading:
        return Reading(state={name.removeprefix("student."): tensor for name, tensor in source.state.items()})

    def write(self, state: Any, config: Any, preprocess: Any) -> Writing:
        require(config, "wrong/it")
        return Writing(state={f"student.{name}": tensor for name, tensor in state.items()})


class WithoutWrite:
    reasons_against, read = Student.reasons_against, Student.read


class Transposing(Student):
    def read(self, source: Any, hints: Mapping[str, Any]) -> Reading:
        reading = super().read(source, hints)
        turned = {name: t.T if name.endswith("attn.proj.weight") else t for name, t in reading.state.items()}
        return replace(reading, state=turned)


class OtherEps(Student):
    def read(self, source: Any, hints: Mapping[str, Any]) -> Reading:
        return replace(super().read(source, hints), settings={"norm": ("layernorm", {"eps": 1e-2})})


class Blind(Student):
    def reasons_against(self, source: Any) -> list[str]:
        return ["no teacher"]


class Greedy(Student):
    def reasons_against(self, source: Any) -> list[str]:
        return []


class Wordless(Student):
    def reasons_against(self, source: Any) -> Any:
        return [""]


class Silent(Student):
    def read(self, source: Any, hints: Mapping[str, Any]) -> Reading:
        known = {name: tensor for name, tensor in source.state.items() if name.startswith("student.")}
        return super().read(replace(source, state=known), hints)


class Forgetful(Student):
    def write(self, state: Any, config: Any, preprocess: Any) -> Writing:
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("rope")}
        return Writing(state={f"student.{name}": tensor for name, tensor in kept.items()})


def test_a_format_that_is_right_passes(registry: Registry) -> None:
    outcomes = outcomes_of("weights", Student)
    assert failed(outcomes) == {}
    assert {outcome.state for outcome in outcomes.values()} == {"passed"}


@pytest.mark.parametrize(
    ("target", "check", "words"),
    [
        (WithoutWrite, "protocol", "the format lacks write()"),
        (Transposing, "round_trip", "other values stand in blocks.0.attn.proj.weight, blocks.1.attn.proj.weight"),
        (OtherEps, "round_trip", "the tensors are equal and the model computes something else: a switch (eps,"),
        (Blind, "detected", "it finds reasons against what it wrote itself: ['no teacher']"),
        (Greedy, "not_detected", "it finds no reason against a source of one tensor named encoder.weight"),
        (Wordless, "not_detected", "a reason is a few words; got ['']"),
        (Silent, "strangers", "is neither in what is read nor in its notes: it is dropped in silence"),
        (Forgetful, "refuses_model", "rope.freqs"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if " " not in value else "",
)
def test_a_format_that_is_wrong_in_one_way_is_caught(registry: Registry, target: Any, check: str, words: str) -> None:
    assert words in fault("weights", target, check)


def test_a_registration_says_which_model_a_format_has_a_place_for(registry: Registry) -> None:
    small = {"depth": 1, "embed_dim": 48, "img_size": 32, "num_classes": 3}
    told = outcomes_of("weights", Student, "round_trip", test_model="vit_tiny_patch16_224", test_config=small)
    assert failed(told) == {}
    words = fault("weights", Student, "round_trip", name="other", models="nobody/*")
    assert words == "the format says that it is for models='nobody/*', and no registered model has such a name"


def test_the_built_in_formats_pass_but_for_what_they_do_not_do() -> None:
    outcomes = [run(check) for check in checks_of("vitzoo", only=["weights/*"])]
    bad = {outcome.id: outcome.detail for outcome in outcomes if outcome.bad}
    # One is read only, one has no place for a head's bias; an encoder of MAE's without its decoder has timm's names.
    unwritten = {f"weights/{name}:{check}" for name in ("jax", "open_clip") for check in WRITING}
    assert set(bad) == unwritten | {"weights/mae:detected"}, bad
    assert "head.bias is not 0" in bad["weights/open_clip:round_trip"]


WRITING = ("round_trip", "detected", "strangers")
GOOD = """
def register(registrar):
    registrar.require_api(1)
    registrar.add("mlp", "solu", "acme_parts:Solu", doc="softmax linear units")
"""
PARTS = '''
from vitzoo.mlp import GeluMlp

class Solu(GeluMlp):
    """Softmax linear units."""

class Bare(GeluMlp):
    pass

NUMBER = 3
'''


def package(folder: Path, manifest: str, needs: str = "vitzoo") -> dict[str, tuple[str, str]]:
    """Install a plugin into a folder; return {check: (state, detail)} of its package's checks."""
    info = folder / "acme_vitzoo-1.0.dist-info"
    info.mkdir()
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-vitzoo\nVersion: 1.0\n{requires}")
    (info / "entry_points.txt").write_text("[vitzoo.plugins]\nacme = acme_manifest:register\n")
    (folder / "acme_manifest.py").write_text(manifest)
    (folder / "acme_parts.py").write_text(PARTS)
    path = os.pathsep.join([str(folder), *sys.path])
    command = [sys.executable, "-m", "vitzoo", "check", "acme", "--only", "package/*", "--json"]
    environment = {**os.environ, "PYTHONPATH": path, "VITZOO_PLUGINS": "acme"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout)
    return {row["id"].partition(":")[2]: (row["state"], row["detail"]) for row in rows}


def test_a_good_package_passes(tmp_path: Path) -> None:
    assert {state for state, _ in package(tmp_path, GOOD).values()} == {"passed"}


def with_entry(old: str, new: str, *, before: str = "") -> str:
    """Return the good manifest with one thing changed, and a line before it."""
    assert old in GOOD
    return before + GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("manifest", "needs", "faults"),
    [
        (
            with_entry("registrar.require_api(1)", "", before="import torch\n").replace('"solu"', '"acme_solu"'),
            "vitzoo",
            {
                "imports_no_torch": "its manifest imports torch",
                "versions": "does not call registrar.require_api(1)",
                "names": "mlp 'acme/acme_solu' repeats the plugin's name, which vitzoo puts in front",
            },
        ),
        (
            with_entry('"solu", "acme_parts:Solu", doc="softmax linear units"', '"so__lu", "acme_parts:NUMBER"'),
            "torch",
            {
                "versions": "the distribution 'acme-vitzoo' does not depend on vitzoo",
                "names": "mlp 'acme/so__lu' has two underscores in a row",
                "docs": "mlp 'acme/so__lu' has no doc: one line that listings show",
                "targets": "'acme_parts:NUMBER', which is a int and cannot be called",
            },
        ),
        (with_entry(":Solu", ":Bare"), "vitzoo", {"docs": "the target of mlp 'acme/solu' has no docstring"}),
        (
            with_entry("linear units", "\\n units").replace(":Solu", ":Gone"),
            "vitzoo",
            {
                "docs": "the doc of mlp 'acme/solu' has several lines; listings show one",
                "targets": "'acme_parts:Gone', which cannot be imported",
            },
        ),
    ],
    ids=["heavy", "untidy", "no_docstring", "gone"],
)
def test_a_package_is_caught_for_each_thing_that_is_wrong(
    tmp_path: Path, manifest: str, needs: str, faults: dict[str, str]
) -> None:
    found = package(tmp_path, manifest, needs)
    assert {check for check, (state, _) in found.items() if state == "failed"} == set(faults)
    for check, words in faults.items():
        assert words in found[check][1]


def test_what_a_script_registers_has_no_package_to_check(registry: Registry) -> None:
    vitzoo.register("mlp", "lab/solu", doc="softmax")(torch.nn.Identity)
    states = {check.id: run(check).state for check in checks_of("lab", only=["package/*"])}
    skipped = {id for id, state in states.items() if state == "skipped"}
    assert skipped == {"package/lab:imports_no_torch", "package/lab:versions"}
