"""`vitzoo plugins`: what is installed, and what became of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vitzoo.cli.output import console, show_json, show_table
from vitzoo.plugin import plugins as installed_plugins


def plugins(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the installed plugins."""
    statuses = installed_plugins()
    if json:
        show_json([asdict(status) for status in statuses.values()])
    elif not statuses:
        console.print("No plugin is installed.")
    else:
        show_table(
            ["plugin", "state", "distribution", "version", "provides", "detail"],
            [
                (
                    status.name,
                    status.state,
                    status.distribution,
                    status.version,
                    ", ".join(status.provides),
                    status.detail,
                )
                for status in statuses.values()
            ],
        )
