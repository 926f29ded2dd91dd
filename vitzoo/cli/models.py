"""`vitzoo models`: what can be created."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vitzoo.catalog import Found, find_model, list_models
from vitzoo.cli.output import console, millions, show_json, show_table, size
from vitzoo.licenses import UNSTATED
from vitzoo.plugin import get_registry
from vitzoo.variants.table import Variant


def models(
    pattern: Annotated[str, typer.Argument(help="Shell-style, '*dinov2*'; with a dot, names with tags.")] = "*",
    plugin: Annotated[str | None, typer.Option(help="Only what this plugin brings; 'vitzoo' for the built-in.")] = None,
    license: Annotated[
        str | None, typer.Option(help="A licence, such as apache-2.0, or a kind: permissive, non-commercial, custom.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Only public checkpoints that can be fetched.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models."""
    rows = [_row(name) for name in list_models(pattern, plugin=plugin, license=license, pretrained=pretrained)]
    if json:
        show_json(rows)
        return
    if not rows:
        console.print(f"No model matches {pattern!r}.")
        return
    show_table(
        ["name", "parameters>", "image>", "patch>", "licence", "source", "default tag"],
        [
            (
                row["name"],
                millions(row["params"]) if row["params"] else "",
                size(row["img_size"]) if row["img_size"] else "",
                size(row["patch_size"]) if row["patch_size"] else "",
                row["license"],
                f"arXiv {row['arxiv']}" if row["arxiv"] else row["plugin"],
                f"{row['default_tag']} (1 of {row['tags']})" if row["default_tag"] else "",
            )
            for row in rows
        ],
        whole="name",
    )
    aliases = {
        alias: name for alias, name in get_registry().aliases("model").items() if name in {row["name"] for row in rows}
    }
    if aliases:
        console.print("\nShort names: " + ", ".join(f"{alias} = {name}" for alias, name in aliases.items()))


def _row(name: str) -> dict[str, Any]:
    entry = get_registry().find("model", name.partition(".")[0])
    assert entry is not None
    if not isinstance(entry.target, Variant):
        # A plugin's target stays unimported: listing must not run its code.
        empty = dict.fromkeys(("params", "img_size", "patch_size", "paper", "arxiv", "default_tag", "weights"))
        license = entry.meta.get("license", UNSTATED)
        return {"name": name, "plugin": entry.provider, **empty, "tags": 0, "license": license}
    found: Found = find_model(name)
    variant, config = entry.target, found.config
    assert config is not None
    default_tag = variant.default_tag if found.tag is None else None
    checkpoint = found.tag or variant.tags.get(default_tag or "")
    return {
        "name": name,
        "plugin": entry.provider,
        # A tag may have another head; the row's count is that of the row's own.
        "params": variant.params if found.tag is None else None,
        "img_size": list(config.img_size),
        "patch_size": list(config.patch_size),
        "paper": variant.paper if found.tag is None else found.tag.paper,
        "arxiv": variant.arxiv if found.tag is None else found.tag.arxiv,
        "default_tag": default_tag,
        "weights": checkpoint.weights if checkpoint else None,
        "tags": len(variant.tags) if found.tag is None else 0,
        "license": variant.license if found.tag is None else found.tag.license,
    }
