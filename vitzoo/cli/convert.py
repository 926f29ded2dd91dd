"""`vitzoo convert`: weights from one library's format to another's."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from vitzoo.cli.output import console, show_json
from vitzoo.errors import ConfigError

# Arguments of the functions behind the commands that are no settings of a model.
NOT_SETTINGS = ("against", "attn", "device", "dtype", "format", "library", "model", "path", "tolerance", "weights")


def convert(
    source: Annotated[str, typer.Argument(help="A directory, a file of weights, or hf-hub:org/name@revision.")],
    target: Annotated[Path, typer.Argument(help="A directory, or a .safetensors file for weights alone.")],
    to: Annotated[str, typer.Option(help="The format to write: vitzoo, timm, transformers, torchvision, ...")],
    from_: Annotated[str | None, typer.Option("--from", help="The source's format; detected when not given.")] = None,
    model: Annotated[str | None, typer.Option(help="A model name, when the source does not tell its model.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting to change, as name=JSON: --set num_heads=12.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert weights between vitzoo, timm, transformers, torchvision, open_clip and others."""
    import vitzoo

    config = dict(parse_setting(setting) for setting in settings or ())
    if model is None:
        network = vitzoo.load(source, format=from_, **config)
    else:
        network = vitzoo.create(model, weights=source, format=from_, **config)
    report: Any = network.load_report
    notes = vitzoo.save(network, target, format=to)
    if json:
        written = [{"action": note.action, "what": note.what, "why": note.why} for note in notes]
        show_json({"read": report.to_dict(), "written": {"path": str(target), "format": to, "notes": written}})
        return
    # Printed plainly: a path or a setting may hold what looks like markup.
    console.print(str(report), markup=False, soft_wrap=True)
    console.print(f"wrote {target}, format {to}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)


def parse_setting(setting: str) -> tuple[str, Any]:
    """Return (name, value) of 'name=value', where the value is JSON, or a word."""
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {setting!r} is not name=value, such as num_heads=12")
    if name in NOT_SETTINGS:
        raise ConfigError(
            f"--set {setting!r}: {name} is no setting of a model, as num_heads is; see --help for options"
        )
    try:
        return name, json_module.loads(text)
    except json_module.JSONDecodeError:
        return name, text
