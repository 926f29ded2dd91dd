"""`vitzoo check`: does a plugin do what the protocols of its kinds ask?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vitzoo.cli.output import console, errors, show_json, show_table


def check(
    plugin: Annotated[str, typer.Argument(help="A plugin's name; 'vitzoo' for the built-in parts.")],
    only: Annotated[
        list[str] | None,
        typer.Option(help="A pattern of check ids, such as 'attention/*'; may be given several times."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="A check that is to fail, as 'kind/name:check=why'; passing is then an error."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the conformance checks of everything a plugin provides; exit 1 when one fails."""
    from vitzoo.testing import outcomes

    reasons = {}
    for item in expect or ():
        id, equals, why = item.partition("=")
        if not equals or not why:
            raise typer.BadParameter(f"--expect is 'kind/name:check=why'; got {item!r}")
        reasons[id] = why
    found = []
    with errors.status("") as status:
        for outcome in outcomes(plugin, expected_failures=reasons, only=only or ()):
            status.update(outcome.id)
            found.append(outcome)
    if json:
        show_json([asdict(outcome) for outcome in found])
    else:
        show_table(["check", "state", "detail"], [(outcome.id, outcome.state, outcome.detail) for outcome in found])
        states = [outcome.state for outcome in found]
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        console.print(f"\n{plugin}: {', '.join(counts) or 'nothing to check'}")
    if any(outcome.bad for outcome in found):
        raise typer.Exit(1)
