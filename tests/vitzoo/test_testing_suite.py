"""The suite as a plugin's author sees it, and vitzoo's own parts under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vitzoo
import vitzoo.testing
from vitzoo.cli.app import app_for
from vitzoo.errors import UnknownNameError
from vitzoo.mlp import GeluMlp
from vitzoo.pool.simple import Pool
from vitzoo.registry import Registry
from vitzoo.testing.collect import checks_of

runner = CliRunner(env={"COLUMNS": "200"})

test_builtin = vitzoo.testing.suite(
    "vitzoo",
    only=(
        "attention/sdpa:*",
        "attention/reference:*",
        "block/pre_norm:*",
        "block/parallel:*",
        "mlp/gelu:*",
        "mlp/swiglu:*",
        "norm/rmsnorm:*",
        "patch_embed/conv:*",
        "patch_embed/conv_stem:*",
        "pool/none:*",
        "pool/distilled:*",
        "pool/map:*",
        "pos_embed/learned:*",
        "pos_embed/sincos2d:*",
        "rope/mixed:*",
    ),
    expected_failures={
        "pool/none:shape": "it gives all tokens",
        "pool/none:prefix": "it gives all tokens",
        "pool/distilled:shape": "it gives two tokens, for two heads",
    },
)

PLUGIN_TEST = """
import vitzoo
import vitzoo.testing
from vitzoo.mlp import GeluMlp

@vitzoo.register("mlp", "acme/good")
class Good(GeluMlp):
    "As vitzoo's."

@vitzoo.register("mlp", "acme/late")
class Late(GeluMlp):
    "Drops also in eval mode."
    def forward(self, x):
        return super().forward(x) + x.new_ones(()).random_(9)

only = ("mlp/*:shape", "mlp/*:repeatable", "mlp/*:cuda")
test_acme = vitzoo.testing.suite("acme", only=only, expected_failures=EXPECTED)
"""


@pytest.mark.parametrize(
    ("expected", "code", "words"),
    [
        ({}, 1, ["1 failed, 3 passed", "[mlp/late:repeatable]", "in eval mode two calls give different results"]),
        ({"mlp/late:repeatable": "a known fault"}, 0, ["3 passed", "1 xfailed"]),
        ({"mlp/late:repeatable": "known", "mlp/good:shape": "wrong"}, 1, ["1 failed", "[XPASS(strict)] wrong"]),
        (
            {"mlp/good:shap": "misspelt"},
            2,
            ["expected_failures names 'mlp/good:shap'", "Did you mean 'mlp/good:shape'"],
        ),
    ],
)
def test_a_plugins_whole_test_file_is_two_lines(
    tmp_path: Path, expected: dict[str, str], code: int, words: list[str]
) -> None:
    file = tmp_path / "test_acme.py"
    file.write_text(PLUGIN_TEST.replace("EXPECTED", repr(expected)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--rootdir",
        tmp_path,
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    for word in words:
        assert word in done.stdout, done.stdout


class AllTokens(Pool):
    """The mean of all tokens."""

    def forward(self, tokens: Any, num_prefix_tokens: int) -> Any:
        return tokens.mean(dim=1)


def test_the_command_prints_the_same_as_a_table_and_exits_1_on_a_failure(registry: Registry) -> None:
    vitzoo.register("pool", "acme/all")(AllTokens)
    result = runner.invoke(app_for(()), ["check", "acme", "--only", "pool/all:prefix", "--only", "pool/all:shape"])
    assert result.exit_code == 1
    # A narrow terminal folds the words.
    shown = " ".join(result.stdout.split())
    assert "pool/all:prefix failed" in shown
    assert "the result depends on the patches and on the 3 prefix tokens" in shown
    assert "acme: 1 passed, 1 failed" in shown
    result = runner.invoke(app_for(()), ["check", "acme", "--only", "pool/all:shape", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"id": "pool/all:shape", "state": "passed", "detail": ""}]


def test_the_command_takes_expected_failures(registry: Registry) -> None:
    vitzoo.register("pool", "acme/all")(AllTokens)
    only = ["check", "acme", "--only", "pool/all:prefix", "--only", "pool/all:shape"]
    result = runner.invoke(app_for(()), [*only, "--expect", "pool/all:prefix=it reads all"])
    assert result.exit_code == 0
    assert "acme: 1 passed, 1 failed as expected" in " ".join(result.stdout.split())
    result = runner.invoke(
        app_for(()), [*only, "--expect", "pool/all:prefix=it reads all", "--expect", "pool/all:shape=odd"]
    )
    assert result.exit_code == 1
    assert "passed, though a failure was expected" in " ".join(result.stdout.split())
    result = runner.invoke(app_for(()), [*only, "--expect", "pool/all:prefix"])
    assert result.exit_code == 2
    assert "--expect is 'kind/name:check=why'" in result.output


def test_the_example_of_the_plugins_page_passes(registry: Registry) -> None:
    page = (Path(__file__).parents[2] / "plugins" / "README.md").read_text()
    block = page.partition("```python\n")[2].partition("```")[0]
    exec(block, {})
    found = [outcome for outcome in vitzoo.testing.outcomes("acme") if outcome.state != "passed"]
    assert {outcome.id for outcome in found} == {
        "package/acme:imports_no_torch",
        "package/acme:versions",
        "mlp/solu:cuda",
    }
    assert {outcome.state for outcome in found} == {"skipped"}


def test_what_there_is_nothing_to_check_of_is_refused(registry: Registry) -> None:
    with pytest.raises(UnknownNameError, match="nothing is provided by a plugin 'vitzo'.*Did you mean 'vitzoo'"):
        vitzoo.testing.suite("vitzo")
    vitzoo.register("mlp", "acme/good")(GeluMlp)
    with pytest.raises(UnknownNameError, match=r"no check is named 'mlp/god:\*'"):
        vitzoo.testing.suite("acme", only=["mlp/god:*"])


def test_every_part_has_checks_whose_ids_are_unique() -> None:
    ids = [check.id for check in checks_of("vitzoo")]
    assert len(ids) == len(set(ids))
    checked = {tuple(id.partition(":")[0].split("/", 1)) for id in ids}
    listed = {tuple(line.split(" ", 1)) for line in vitzoo.list_components() if "/" not in line}
    assert listed <= checked


def test_importing_vitzoo_imports_neither_the_kit_nor_pytest() -> None:
    code = "import vitzoo, sys; print('vitzoo.testing' in sys.modules); import vitzoo.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
