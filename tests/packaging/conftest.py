"""What the packaging tests share: the built wheel, and environments that it is installed in."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command outside the checkout and return what it printed."""
    done = attempt(command, folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, whether it fails or not."""
    left_out = ("PYTHONPATH", "TRITON_INTERPRET", "VITZOO_PLUGINS", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False
    )


def build(project: Path, folder: Path, kind: str = "wheel") -> Path:
    """Build a project's wheel, or its sdist, into a folder of its own."""
    folder.mkdir(parents=True)
    run([sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(project)], folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vitzoo's own wheel."""
    return build(ROOT, tmp_path_factory.mktemp("wheel") / "dist")


class Environment:
    """A fresh virtual environment that borrows torch and the other dependencies of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, str(folder / "venv/bin/python")
        run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
        (site,) = (folder / "venv/lib").glob("python*/site-packages")
        # A copy of torch would be 6 GB. What is installed here comes first.
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str) -> None:
        """Run pip on the environment."""
        run([sys.executable, "-m", "pip", "--python", self.python, "--quiet", *arguments], self.folder)

    def install(self, *wheels: Path) -> None:
        """Install wheels, without what they depend on."""
        self.pip("install", "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels))

    def shell(self, line: str, folder: Path) -> None:
        """Run a line as people type it, but offline: pip and build take what is there."""
        program, *arguments = shlex.split(line)
        offline = ["--no-deps", "--no-index", "--no-build-isolation"]
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        commands = {
            "pip": [*pip, *arguments, *offline],
            "vitzoo": [str(self.folder / "venv/bin/vitzoo"), *arguments],
            "python": [self.python, *arguments, *(["--no-isolation"] if arguments[:2] == ["-m", "build"] else [])],
        }
        run(commands[program], folder)

    def vitzoo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command, wide enough for whole words."""
        return attempt([self.python, "-m", "vitzoo", *arguments], self.folder, COLUMNS="300")

    def code(self, text: str) -> str:
        """Run Python code and return what it printed."""
        return run([self.python, "-c", text], self.folder)


@pytest.fixture
def environment(tmp_path: Path, wheel: Path) -> Environment:
    """A fresh environment with vitzoo in it."""
    made = Environment(tmp_path)
    made.install(wheel)
    return made


@pytest.fixture
def make_plugin(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that generates a plugin with the command, changes it, and builds its wheel."""

    def make(name: str, *, kind: str = "mlp", distribution: str = "", version: str = "0.1.0", **changes: str) -> Path:
        number = len(list(tmp_path.glob("built-*")))
        project = tmp_path / f"source-{number}"
        project.mkdir()
        run(
            [sys.executable, "-m", "vitzoo", "new-plugin", name, "--kind", kind, "--into", str(project)],
            tmp_path,
            PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'kernels'}",
        )
        (package,) = project.iterdir()
        described = package / "pyproject.toml"
        text = described.read_text().replace('version = "0.1.0"', f'version = "{version}"')
        described.write_text(text.replace(f'name = "{package.name}"', f'name = "{distribution or package.name}"'))
        manifest = package / f"vitzoo_{name}" / "manifest.py"
        for old, new in changes.items():
            text = manifest.read_text()
            assert old in text
            manifest.write_text(text.replace(old, new))
        return build(package, tmp_path / f"built-{number}")

    return make
