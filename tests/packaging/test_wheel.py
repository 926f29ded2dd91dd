"""The built wheel works away from the checkout."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, build, run


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without its dependencies, into a folder of its own."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "vitzoo",
        "vitzoo_kernels",
        *(plugin.name for plugin in (ROOT / "plugins").glob("vitzoo_*")),
        wheel.name[: -len("-py3-none-any.whl")] + ".dist-info",
    }
    assert {"vitzoo/data/imagenet-1k.txt", "vitzoo/data/LICENSE.torchvision"} <= set(names)
    assert {"vitzoo/py.typed", "vitzoo_kernels/py.typed", "vitzoo_kernels/dense/forward.py"} <= set(names)
    assert {"vitzoo/scaffold/templates/mlp.py.txt"} <= set(names)
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    run([*pip, str(folder / "site"), str(wheel)], folder)
    return folder / "site"


def test_the_installed_wheel_creates_saves_and_loads(site: Path, tmp_path: Path) -> None:
    code = (
        "import torch, vitzoo, vitzoo_kernels\n"
        "print(vitzoo.__file__)\n"
        "print(vitzoo_kernels.__file__)\n"
        "model = vitzoo.create('vit_tiny', depth=1).eval()\n"
        "vitzoo.save(model, 'model')\n"
        "image = torch.randn(1, 3, 224, 224)\n"
        "print(torch.equal(vitzoo.load('model').eval()(image), model(image)))\n"
    )
    lines = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site)).split()
    assert lines == [str(site / "vitzoo/__init__.py"), str(site / "vitzoo_kernels/__init__.py"), "True"]


def test_the_installed_command_answers(site: Path, tmp_path: Path) -> None:
    assert "vit_small_patch16_224" in run(
        [sys.executable, "-m", "vitzoo", "models", "vit_small*"], tmp_path, PYTHONPATH=str(site)
    )
    assert (site / "bin/vitzoo").is_file()
    listed = run([sys.executable, "-m", "vitzoo", "models", "swin/v1", "--json"], tmp_path, PYTHONPATH=str(site))
    assert [row["plugin"] for row in json.loads(listed)] == ["swin"]


def test_triton_is_asked_for_on_linux_alone(site: Path) -> None:
    (metadata,) = site.glob("vitzoo-*.dist-info/METADATA")
    requirements = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist: triton")]
    assert requirements == ["Requires-Dist: triton>=3.6; sys_platform == 'linux'"]


def test_the_source_distribution_holds_what_its_tests_need(tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, tmp_path / "dist", "sdist")) as archive:
        names = archive.getnames()
    assert {name.split("/")[1] for name in names} >= {
        *("vitzoo", "kernels", "plugins", "tests", "benchmarks", "docs"),
        *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
    }
