"""The documents are true: their Python runs, their links lead somewhere, their environment table is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for folder in (".", "docs", "plugins", "plugins/*", "kernels", "benchmarks")
    for path in ROOT.glob(f"{folder}/*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_python_in_a_page_runs(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    env = environment(tmp_path)
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_environment_variable_that_is_read_is_in_the_table() -> None:
    read = set()
    for folder in ("vitzoo", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            read |= set(re.findall(r"environ(?:\.get)?[\[(]\s*[\"']([A-Z_]+)", path.read_text()))
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert read == table


def environment(folder: Path) -> dict[str, str]:
    """Return the environment with the checkout importable from anywhere, its plugins found as in an installation."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vitzoo.plugins"]
    info = folder / "installed" / "vitzoo-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vitzoo\nVersion: 0\n")
    lines = [f"{name} = {target}\n" for name, target in points.items()]
    (info / "entry_points.txt").write_text("[vitzoo.plugins]\n" + "".join(lines))
    path = [info.parent, ROOT, ROOT / "kernels", ROOT / "plugins"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
