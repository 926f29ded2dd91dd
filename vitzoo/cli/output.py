"""How the command prints: tables for people, JSON for scripts, errors on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    # What reads a pipe or a file has no width: whole lines can be searched.
    console.width = 10_000
errors = Console(stderr=True, highlight=False)


def show_json(data: Any) -> None:
    """Print JSON, and nothing else, on stdout."""
    print(json.dumps(data, indent=2))


def show_error(message: str) -> None:
    """Print an error on stderr, unwrapped, so that scripts can read it."""
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, whole: str | None = None
) -> None:
    """Print a table; a column whose name ends in '>' is aligned to the right, and the one named `whole` not folded."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="dim",
        pad_edge=False,
        show_header=any(columns),
    )
    for column in columns:
        right = column.endswith(">")
        justify: Literal["right", "left"] = "right" if right else "left"
        table.add_column(column.removesuffix(">"), justify=justify, overflow="fold", no_wrap=column == whole)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)


def millions(count: int) -> str:
    """Return a count in millions: '22.05 M'."""
    return f"{count / 1e6:.2f} M"


def megabytes(count: int) -> str:
    """Return bytes in binary megabytes: '84.1 MiB'."""
    return f"{count / 2**20:.1f} MiB"


def size(pair: Sequence[int]) -> str:
    """Return (height, width) as '224x224'."""
    return f"{pair[0]}x{pair[1]}"
