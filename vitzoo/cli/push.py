"""`vitzoo push`: a model to the Hugging Face hub, with a model card."""

from __future__ import annotations

from typing import Annotated

import typer

from vitzoo.cli.output import console, show_json


def push(
    source: Annotated[str, typer.Argument(help="A directory, a file of weights, or hf-hub:org/name[@revision].")],
    repository: Annotated[str, typer.Argument(help="org/name; it is made if missing.")],
    to: Annotated[str, typer.Option(help="The format to write: vitzoo, transformers or open_clip.")] = "vitzoo",
    license: Annotated[
        str | None, typer.Option(help="The weights' licence, such as apache-2.0; the source's when not given.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; main when not given.")] = None,
    replace_card: Annotated[bool, typer.Option("--replace-card", help="Write README.md anew if there is one.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model to the Hugging Face hub, with a model card. Log in first: `hf auth login`, or HF_TOKEN."""
    import vitzoo

    model = vitzoo.load(source)
    url = vitzoo.push_to_hub(
        model,
        repository,
        format=to,
        license=license,
        private=private or None,
        revision=revision,
        replace_card=replace_card,
    )
    if json:
        show_json({"commit": url})
    else:
        console.print(f"pushed {source} to {url}", markup=False, soft_wrap=True)
