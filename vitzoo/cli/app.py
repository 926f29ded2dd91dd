"""The command's tree: one file a subcommand, none of which imports torch before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

import vitzoo

# In the order of the help; 'new-plugin' is the function `new_plugin` in vitzoo/cli/new_plugin.py.
COMMANDS = (
    "models",
    "info",
    "plugins",
    "check",
    "new-plugin",
    "doctor",
    "predict",
    "convert",
    "verify",
    "push",
    "demo",
)


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """Return the command with the subcommand that `arguments` call, or with all of them where they call none.

    Every subcommand's file has imports of its own, and a listing should not wait for those of the others.
    """
    called = [argument for argument in arguments[:1] if argument in COMMANDS]
    app = typer.Typer(
        name="vitzoo",
        help="Vision Transformers in which every part is swappable by name.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    for command in called or COMMANDS:
        name = command.replace("-", "_")
        app.command(command)(getattr(import_module(f"vitzoo.cli.{name}"), name))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(vitzoo.__version__)
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Vision Transformers in which every part is swappable by name."""
    # --traceback is read by main(), which sees an error before its traceback is gone.
