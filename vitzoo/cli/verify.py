"""`vitzoo verify`: a certificate that vitzoo computes what the library computes that weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitzoo.cli.convert import parse_setting
from vitzoo.cli.output import console, show_json, show_table

if TYPE_CHECKING:
    from vitzoo.parity.certificate import Certificate


def verify(
    checkpoint: Annotated[str, typer.Argument(help="A directory, a file of weights, or hf-hub:org/name@revision.")],
    against: Annotated[
        str | None, typer.Option(help="What it was made from: the reference computes with these weights.")
    ] = None,
    library: Annotated[
        str | None, typer.Option("--with", help="The library: timm reads DINOv2's, DINOv3's and MAE's files too.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="The checkpoint's format; detected when not given.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model name, when the files do not tell their model.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="What the files do not tell, as name=JSON: --set num_heads=12.")
    ] = None,
    dtype: Annotated[Literal["float64", "float32"], typer.Option(help="What everything is computed in.")] = "float64",
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference over the reference's largest value that counts as equal.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the certificate to this JSON file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare with the library that the weights come from: the same weights, the same inputs; exit 1 when different."""
    import torch

    from vitzoo.files import require_writable
    from vitzoo.parity.verify import verify as run

    if out is not None:
        require_writable(out)
    certificate = run(
        checkpoint,
        against=against,
        library=library,
        model=model,
        format=from_,
        dtype=getattr(torch, dtype),
        tolerance=tolerance,
        **dict(parse_setting(setting) for setting in settings or ()),
    )
    if out is not None:
        certificate.write(out)
    if json:
        show_json(certificate.to_dict())
    else:
        _show(certificate)
    if not certificate.equal:
        raise typer.Exit(1)


def _show(certificate: Certificate) -> None:
    verified, reference = certificate.checkpoint, certificate.reference
    rows = [("checkpoint", f"{verified['source']}, format {verified['format']}")]
    rows += [("", f"{file['path']}, sha256 {file['sha256']}") for file in verified["files"]]
    rows.append(("reference", f"{reference['reader']}, from {reference['source']}"))
    if reference["files"] != verified["files"]:
        rows += [("", f"{file['path']}, sha256 {file['sha256']}") for file in reference["files"]]
    images = "x".join(map(str, certificate.images["shape"]))
    rows.append(("inputs", f"{images}, {certificate.images['dtype']}, seed {certificate.images['seed']}"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in certificate.versions.items())))
    show_table(["", ""], rows)
    console.print()
    columns = ["reader", "output", "max abs>", "mean abs>", "max rel>", "mean rel>", "verdict"]
    show_table(
        columns,
        [
            (
                row.reader,
                row.output,
                *(f"{value:.1e}" for value in (row.max_abs, row.mean_abs, row.max_rel, row.mean_rel)),
                "equal" if row.equal else "different",
            )
            for row in certificate.comparisons
        ],
    )
    console.print()
    verdict = "equal" if certificate.equal else "different"
    style = "bold green" if certificate.equal else "bold red"
    limit = f"max rel at most {certificate.tolerance:g}: {certificate.why}"
    console.print(f"[{style}]{verdict}[/] ({limit})", soft_wrap=True)
    console.print("This does not show:", *(f"\n  {line}" for line in certificate.unseen), markup=False, soft_wrap=True)
