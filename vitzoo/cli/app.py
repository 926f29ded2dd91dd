"""The command's tree: one file a subcommand, none of which imports torch before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

import vitzoo
from vitzoo.cli import check, convert, demo, doctor, info, models, plugins, predict, push, verify

app = typer.Typer(
    name="vitzoo",
    help="Vision Transformers in which every part is swappable by name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("models")(models.models)
app.command("info")(info.info)
app.command("plugins")(plugins.plugins)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("predict")(predict.predict)
app.command("convert")(convert.convert)
app.command("verify")(verify.verify)
app.command("push")(push.push)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(vitzoo.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Vision Transformers in which every part is swappable by name."""
    # --traceback is read by main(), which sees an error before its traceback is gone.
