"""`vitzoo demo`: a small ViT learns real handwritten digits, and what it sees is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitzoo.cli.output import console, show_error, show_table

if TYPE_CHECKING:
    from vitzoo.demo.run import Outcome


def demo(
    out: Annotated[Path, typer.Option(help="The folder for pictures, results and the model.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 80,
    seed: Annotated[int, typer.Option(help="Of the weights and the order.")] = 0,
) -> None:
    """Train a small ViT on handwritten digits, draw what it sees, compare backends, save and load. About a minute."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from vitzoo.demo.digits import require_extras
    from vitzoo.demo.run import run
    from vitzoo.demo.train import Epoch

    require_extras()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Training on digits", total=epochs, state="")

        def tell(epoch: Epoch) -> None:
            state = f"epoch {epoch.number}, loss {epoch.train_loss:.3f}, held out {epoch.held_out_accuracy:.1%}"
            progress.update(task, advance=1, state=state)

        outcome = run(out, epochs=epochs, seed=seed, tell=tell, say=lambda line: progress.console.print(f"{line} ..."))
    _show(outcome)
    failures = outcome.failures()
    for failure in failures:
        show_error(failure)
    if failures:
        raise typer.Exit(1)


def _show(outcome: Outcome) -> None:
    console.print()
    show_table(
        ["", ""],
        [
            ("held-out accuracy", f"{outcome.accuracy:.1%} after {outcome.seconds:.0f} s of training"),
            (
                "saved and loaded again",
                "the same logits, bit for bit" if outcome.same_after_loading else "other logits",
            ),
        ],
        title="digits",
    )
    console.print()
    rows = []
    for agreement in outcome.agreements:
        same = (
            "same predictions" if agreement.same_predictions else "" if not agreement.available else "other predictions"
        )
        difference = "" if agreement.max_difference is None else f"{agreement.max_difference:.1e}"
        rows.append((agreement.backend, difference, same, agreement.detail))
    show_table(
        ["backend", "largest difference>", "", "ran on"], rows, title="attention backends, against the reference"
    )
    console.print()
    show_table(["", ""], outcome.photo.items(), title="a photograph")
    console.print()
    show_table(["written"], [(path,) for path in outcome.files])
