"""`vitzoo info`: all about one model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from vitzoo.catalog import find_model
from vitzoo.cli.output import console, megabytes, millions, show_json, show_table, size
from vitzoo.errors import ConfigError
from vitzoo.licenses import UNSTATED, kind_of
from vitzoo.preprocess import Preprocess
from vitzoo.variants.table import Variant


def info(
    name: Annotated[str, typer.Argument(help="A model name, with '.tag' for one set of weights.")],
    img_size: Annotated[str | None, typer.Option(help="Image size for the costs: 384 or 384x512.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, for the costs.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's settings, costs, source and licence."""
    data = _collect(name, _parse_size(img_size), batch_size)
    if json:
        show_json(data)
        return
    cost = data["cost"]
    console.print(f"[bold]{data['name']}[/]")
    lines: list[tuple[str, object]] = [
        ("source", f"{data['paper']} (arXiv {data['arxiv']})" if data["paper"] else f"plugin {data['plugin']}"),
        ("licence of weights", f"{data['license']} ({kind_of(data['license'])})"),
        ("default weights", data["default"] or "none: no public checkpoint is known"),
        ("parameters", f"{cost['params']:,} ({millions(cost['params'])}, {megabytes(cost['param_bytes'])} in float32)"),
    ]
    if "macs" in cost:
        where = f"{cost['batch_size']} x {size(cost['img_size'])}"
        lines += [
            (
                f"forward at {where}",
                f"{cost['macs'] / 1e9:.2f} GMACs ({cost['flops'] / 1e9:.2f} GFLOPs, two a multiply-add)",
            ),
            (f"kept for backward at {where}", f"{megabytes(cost['activation_bytes'])} in float32"),
        ]
    if data["preprocess"]:
        lines += [("images", ", ".join(f"{key} {value}" for key, value in data["preprocess"].items()))]
    show_table(["", ""], lines)
    show_table(["setting", "value"], sorted(data["config"].items()), title="\nconfig")
    if data["tags"]:
        rows = [
            (
                tag,
                row["license"] + (", gated" if row["gated"] else ""),
                row["url"],
                row["arxiv"],
                row["changes"] or "",
            )
            for tag, row in data["tags"].items()
        ]
        show_table(["tag", "licence", "weights from", "arXiv", "changes"], rows, title="\ntags")


def _collect(name: str, img_size: tuple[int, int] | None, batch_size: int) -> dict[str, Any]:
    found = find_model(name)
    common = {"name": found.name, "plugin": found.entry.provider}
    if not isinstance(found.target, Variant) or found.config is None or found.preprocess is None:
        from vitzoo.factory import create

        if img_size is not None or batch_size != 1:
            raise ConfigError(
                f"{found.name!r} is a plugin's own model, of which only the parameters are counted: --img-size and "
                "--batch-size are for plain ViTs. Leave them out"
            )
        model: Any = create(name, device="meta")
        params = list(model.parameters())
        count, memory = sum(p.numel() for p in params), sum(p.numel() * p.element_size() for p in params)
        cost: dict[str, Any] = {"params": count, "param_bytes": memory}
        meta, images = found.entry.meta, getattr(model, "preprocess", None)
        told: dict[str, Any] = {
            "paper": meta.get("paper", ""),
            "arxiv": meta.get("arxiv", ""),
            "license": meta.get("license", UNSTATED),
            "preprocess": images.to_dict() if isinstance(images, Preprocess) else {},
            "config": dict(model.config),
        }
        return {**common, **told, "tags": {}, "default": None, "cost": cost}
    from vitzoo.profile import profile

    variant = found.target
    default = found.tag or variant.tags.get(variant.default_tag or "")
    tags = variant.tags if found.tag is None else {found.name.partition(".")[2]: found.tag}
    return {
        **common,
        "paper": variant.paper if found.tag is None else found.tag.paper,
        "arxiv": variant.arxiv if found.tag is None else found.tag.arxiv,
        "license": variant.license if found.tag is None else found.tag.license,
        "default": default.weights if default else None,
        "cost": asdict(profile(name, size=img_size, batch_size=batch_size)),
        "preprocess": found.preprocess.to_dict(),
        "config": found.config.to_dict(),
        "tags": {
            tag: {
                "license": row.license,
                "gated": row.gated,
                "weights": row.weights,
                "url": row.url,
                "paper": row.paper,
                "arxiv": row.arxiv,
                "changes": dict(row.changes),
            }
            for tag, row in tags.items()
        },
    }


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise typer.BadParameter(f"{text!r} is neither a side such as 384 nor a height and width such as 384x512")
    return int(sides[0]), int(sides[-1])
