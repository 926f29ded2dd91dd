"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitzoo

ROOT = Path(__file__).resolve().parent.parent
STANDARD_ONLY = [
    "errors",
    "registry",
    "plugin",
    "config",
    "attention/caps",
    "catalog",
    "licenses",
    "provenance",
    "variants/table",
    "_builtin",
]
NO_REGISTRY = [
    "block",
    "mlp",
    "norm",
    "model",
    "init",
    "features",
    "embed",
    "pool",
    "attention/module",
    "attention/mask",
]


def imports_of(path: Path) -> set[str]:
    """Return the modules, and the names from modules, that a file imports; those for type checkers left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(base: str, *names: str) -> list[Path]:
    """Return the files of modules and of packages, by their names under `base`."""
    found: list[Path] = []
    for name in names:
        path = ROOT / base / name
        found += [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.rglob("*.py"))
    assert found
    return found


def roots(path: Path) -> set[str]:
    """Return the top-level packages a file imports."""
    return {name.partition(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize("path", files("vitzoo", *STANDARD_ONLY, "variants"), ids=lambda path: path.stem)
def test_what_listing_needs_imports_the_standard_library_alone(path: Path) -> None:
    assert roots(path) <= set(sys.stdlib_module_names) | {"vitzoo", "vitzoo_kernels"}


@pytest.mark.parametrize("path", files("vitzoo", *NO_REGISTRY), ids=lambda path: path.stem)
def test_parts_of_a_model_never_import_a_registry(path: Path) -> None:
    forbidden = ("vitzoo.registry", "vitzoo.plugin", "vitzoo.factory", "vitzoo.catalog")
    assert not [name for name in imports_of(path) if name.startswith(forbidden)]
    assert roots(path) <= set(sys.stdlib_module_names) | {"vitzoo", "torch", "einops"}


def test_only_the_factory_builds_from_the_registry() -> None:
    builders = {
        path.relative_to(ROOT).as_posix()
        for path in files("vitzoo", "")
        if "get_entry" in path.read_text() and path.name not in ("plugin.py",)
    }
    # The catalogue resolves model names, select backends, choose formats of weights, testing the backend to be checked:
    # none builds a part.
    readers = {
        "vitzoo/catalog.py",
        "vitzoo/attention/select.py",
        "vitzoo/weights/formats/choose.py",
        "vitzoo/testing/attention.py",
    }
    assert builders <= {"vitzoo/factory.py", *readers}


def test_kernels_import_torch_triton_and_einops_and_never_vitzoo() -> None:
    for path in files("kernels", "vitzoo_kernels"):
        assert roots(path) <= set(sys.stdlib_module_names) | {"torch", "triton", "einops", "vitzoo_kernels"}, path


def test_kernels_keep_their_order() -> None:
    order = {
        "api": {"ops", "layouts", "reference", "launch"},
        "ops": {"launch", "extras", "layouts", "flops"},
        "launch": {"planning", "plans", "extras"},
        "planning": {"forward", "forward_whole", "backward", "backward_whole", "backward_bias", "dropout"}
        | {"configs", "plans", "layouts", "extras", "strides"},
        "forward": {"softmax", "tiles"},
        "forward_whole": {"softmax", "tiles"},
        "softmax": {"tiles"},
        "backward": {"tiles"},
        "backward_whole": {"tiles"},
        "backward_bias": {"tiles"},
        "dropout": {"tiles"},
        "tiles": set(),
        "configs": set(),
        "layouts": set(),
        "extras": set(),
        "flops": {"extras"},
        "plans": set(),
        "strides": set(),
        "reference": set(),
    }
    for name, allowed in order.items():
        imported = imports_of(ROOT / f"kernels/vitzoo_kernels/dense/{name}.py")
        own = {module.split(".")[2] for module in imported if module.startswith("vitzoo_kernels.dense.")}
        assert own <= allowed | {"supported"}, name


@pytest.mark.parametrize(
    "statement",
    [
        "import vitzoo",
        "import vitzoo; vitzoo.list_models(license='permissive', pretrained=True)",
        "import vitzoo_kernels",
    ],
)
def test_importing_and_listing_import_neither_torch_nor_triton_nor_the_hub(statement: str) -> None:
    code = f"{statement}; import sys; print([name for name in ('torch', 'triton', 'huggingface_hub') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def public_modules() -> set[str]:
    """Return the modules that plugins/README.md names as what a plugin may import."""
    section = (ROOT / "plugins" / "README.md").read_text().partition("## What a plugin may import")[2]
    return set(re.findall(r"`(vitzoo[\w.]*)`", section))


def private_imports(path: Path) -> set[str]:
    """Return what a plugin's file imports of vitzoo's that is not public."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            own = [f"vitzoo.{alias.name}" for alias in node.names if alias.name not in vitzoo.__all__]
            found |= set(own) if node.module == "vitzoo" else {node.module or "."}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if re.match(r"vitzoo(_kernels)?(\.|$)", name)} - public_modules()


def test_plugins_import_what_is_public_alone(tmp_path: Path) -> None:
    for name in public_modules():
        assert importlib.util.find_spec(name), f"plugins/README.md names {name}, which does not exist"
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        assert not private_imports(path), path
    nosy = tmp_path / "nosy.py"
    nosy.write_text("from vitzoo import create, factory\nimport vitzoo_other\nfrom vitzoo.factory import make\n")
    assert private_imports(nosy) == {"vitzoo.factory"}
    nosy.write_text("import vitzoo\nimport vitzoo.registry\nfrom vitzoo.embed.patch import PatchEmbed\n")
    assert private_imports(nosy) == {"vitzoo.registry"}


def test_no_folder_of_the_project_shadows_a_package() -> None:
    for folder in ("kernels", "plugins", "tests", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_every_package_brings_its_types() -> None:
    packages = [ROOT / "vitzoo", ROOT / "kernels" / "vitzoo_kernels", *(ROOT / "plugins").glob("vitzoo_*")]
    assert [package.name for package in packages if not (package / "py.typed").is_file()] == []


def test_nothing_is_unpickled_and_nothing_is_imported_by_a_file() -> None:
    for path in files("vitzoo", ""):
        text = path.read_text()
        assert "pickle.load" not in text, path
        assert "weights_only=False" not in text, path
        assert "eval(" not in text.replace(".eval()", "").replace("model.eval(", ""), path
