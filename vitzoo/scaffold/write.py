"""`new_plugin`: a package with one working component, its manifest, its test and its README."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from vitzoo.errors import ConfigError, suggestion
from vitzoo.files import folder_whole
from vitzoo.plugin import API_VERSION

# As in entry points and in 'plugin/name'; short enough to be typed.
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Example:
    """The component of a kind that a new plugin starts with.

    Args:
        component: its name, without the namespace; also that of its file.
        attribute: the class, function or object in the file.
        doc: the line for listings.
        use: how people write it.
    """

    component: str
    attribute: str
    doc: str
    use: str


def _slot(kind: str, component: str) -> str:
    return f'vitzoo.create("vit_small", {kind}="$plugin/{component}")'


KINDS = {
    "attention": Example(
        component="einsum",
        attribute="attend",
        doc="attention as two products, with every score held",
        use='vitzoo.create("vit_small", attn="$plugin/einsum")',
    ),
    "block": Example(
        component="sandwich",
        attribute="SandwichBlock",
        doc="a norm before and after each branch (arXiv 2105.13290)",
        use=_slot("block", "sandwich"),
    ),
    "mlp": Example(
        component="squared_relu",
        attribute="SquaredReluMlp",
        doc="relu(x) ** 2 between two layers (arXiv 2109.08668)",
        use=_slot("mlp", "squared_relu"),
    ),
    "model": Example(
        component="nano",
        attribute="NANO",
        doc="two blocks of width 64 for images of 32 pixels",
        use='vitzoo.create("$plugin/nano")',
    ),
    "norm": Example(
        component="scale_norm",
        attribute="ScaleNorm",
        doc="tokens of one learned length (arXiv 1910.05895)",
        use=_slot("norm", "scale_norm"),
    ),
    "patch_embed": Example(
        component="dual_norm",
        attribute="DualNormPatches",
        doc="norms before and after the projection (arXiv 2302.01327)",
        use=_slot("patch_embed", "dual_norm"),
    ),
    "pool": Example(
        component="soft_max",
        attribute="SoftMaxPool",
        doc="a smooth maximum over the patches",
        use=_slot("pool", "soft_max"),
    ),
    "pos_embed": Example(
        component="fourier",
        attribute="FourierPositions",
        doc="sines and cosines of the patch's place in the image (arXiv 2006.10739)",
        use=_slot("pos_embed", "fourier"),
    ),
    "rope": Example(
        component="directions",
        attribute="DirectionsRope",
        doc="each pair of channels turns along a direction of its own",
        use='vitzoo.create("vit_small", pos_embed="none", rope="$plugin/directions")',
    ),
    "weights": Example(
        component="prefixed",
        attribute="Prefixed",
        doc="a plain ViT with every name behind 'model.'",
        use='vitzoo.save(model, "weights.safetensors", format="$plugin/prefixed")',
    ),
}


def new_plugin(name: str, *, kind: str = "mlp", folder: Path) -> Path:
    """Write a plugin's package: it installs, and passes its own test as it is.

    Args:
        name: the plugin's name, which stands in front of the names of all that it brings: lower case letters, digits
            and underscores, a letter first.
        kind: what its first component is, one of `KINDS`.
        folder: where the package's folder is made.

    Returns:
        The package's folder, `folder / 'vitzoo-NAME'`.

    Raises:
        ConfigError: the name or the kind cannot be, or the folder exists; nothing was written.
        OSError: the folder cannot be written to; nothing was left.
    """
    if not NAME.fullmatch(name) or name == "vitzoo":
        raise ConfigError(
            f"a plugin cannot be named {name!r} (possible: up to 40 lower case letters, digits and underscores, a "
            "letter first, and not 'vitzoo')"
        )
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r} (possible: {', '.join(KINDS)}).{suggestion(kind, list(KINDS))}")
    target = folder / f"vitzoo-{name.replace('_', '-')}"
    if target.exists():
        raise ConfigError(f"{str(target)!r} exists already and was not touched: choose another name, or another folder")
    example, package = KINDS[kind], f"vitzoo_{name}"
    words = {
        "plugin": name,
        "package": package,
        "distribution": target.name,
        "api": str(API_VERSION),
        "kind": kind,
        "component": example.component,
        "attribute": example.attribute,
        "doc": example.doc,
        "use": Template(example.use).substitute(plugin=name),
    }
    manifest = "manifest_attention.py" if kind == "attention" else "manifest.py"
    contents = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": "init.py",
        f"{package}/manifest.py": manifest,
        f"{package}/{example.component}.py": f"{kind}.py",
        f"tests/test_{name}.py": "test.py",
    }
    templates = files("vitzoo.scaffold") / "templates"
    with folder_whole(target) as draft:
        for path, template in contents.items():
            text = Template((templates / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(text, encoding="utf-8")
    return target
