"""`vitzoo new-plugin`: a package to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitzoo.cli.output import console
from vitzoo.scaffold import KINDS


def new_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name: what stands before the '/' in all that it brings.")],
    kind: Annotated[str, typer.Option(help=f"What its first part is: {', '.join(KINDS)}.")] = "mlp",
    into: Annotated[Path, typer.Option(help="The folder in which the package's folder is made.")] = Path(),
) -> None:
    """Write a plugin's package: pyproject, manifest, one working part, its test and a README."""
    from vitzoo import scaffold

    target = scaffold.new_plugin(name, kind=kind, folder=into)
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    # Quoted where a shell would split it.
    steps = (f"cd '{target}'", "pip install -e .", "vitzoo plugins", "python -m pytest tests")
    console.print("\n  ".join(("\nNow:", *steps)), markup=False, soft_wrap=True)
