"""The table of kernels/README.md, made from what `benchmarks.attention --suite vit` wrote under results/.

    python -m benchmarks.attention_table        # writes it into kernels/README.md

Of each GPU and dtype the newest file counts. Shown are the largest batch of each head dim and length, and all batches
of ViT-B's shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "kernels/README.md"
BEGIN, END = "<!-- attention table: begin -->", "<!-- attention table: end -->"
NOTHING = "Nothing: no GPU was available. No speed is claimed, and no tile size has been timed."
# (D, N) of ViT-B at 224 pixels.
ALL_BATCHES = (64, 197)
COLUMNS = ("sdpa", "cudnn", "flash", "efficient", "flex", "flash-attn", "fa3", "xformers")


def main() -> None:
    """Write the table into the README."""
    README.write_text(with_table(README.read_text(), table(load(RESULTS))))


def load(folder: Path) -> list[dict[str, Any]]:
    """Return the newest record of each GPU and dtype, sorted by their names.

    Raises:
        ValueError: a record is of a quick run, or of a kernel that was wrong.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("attention-*.json")):
        record = json.loads(path.read_text())
        # What was measured without a kernel is for comparing with what ships.
        if record["suite"] != "vit" or record["without"]:
            continue
        if record["quick"]:
            raise ValueError(f"{path.name} is of a quick run, which measures nothing; take it away")
        if record["wrong"]:
            raise ValueError(f"{path.name} is of a kernel that was wrong: {record['wrong'][0]}")
        key = (record["machine"]["device"], record["dtype"])
        if key not in newest or record["machine"]["date"] > newest[key]["machine"]["date"]:
            newest[key] = record
    return [newest[key] for key in sorted(newest)]


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown that stands between the markers."""
    return "\n\n".join("\n".join(section(record)) for record in records) or NOTHING


def section(record: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for one GPU and dtype."""
    on, peaks = record["machine"], record["peaks"]["measured"]
    sheet = record["peaks"]["datasheet"]
    stated = f" (data sheet: {_rates(sheet)})" if sheet else ""
    clocks = record["clocks"].get("clocks.sm")
    yield f"**{on['device']}, {record['dtype']}**, {on['date'][:10]}, commit {on['commit']}, driver {on['driver']},"
    yield f"CUDA {on['cuda']}, torch {on['torch']}, triton {on['triton']}, cuDNN {on['cudnn']}."
    yield f"Peaks measured in the same run: {_rates(peaks)}{stated}."
    if clocks:
        yield f"SM clock while it ran: {clocks[0]:.0f} to {clocks[2]:.0f} MHz, median {clocks[1]:.0f}."
    yield f"Inputs are {'cold' if all(row['cold'] for row in record['rows']) else 'warm'}."
    yield "A peer's column is its time over vitzoo's: above 1 vitzoo is faster."
    if record["not_run"]:
        yield f"{len(record['not_run'])} shapes of the suite were not reached."
    yield ""
    names = [name for name in COLUMNS if any("ratio" in row["candidates"].get(name, {}) for row in record["rows"])]
    yield "| | B | N | H | D | vitzoo us (20-80 %) | of roofline | " + " | ".join(names) + " |"
    yield "|---|--:|--:|--:|--:|--:|--:|" + "--:|" * len(names)
    largest: dict[tuple[int, int], int] = {}
    for row in record["rows"]:
        key = (row["head_dim"], row["tokens"])
        largest[key] = max(largest.get(key, 0), row["batch"])
    for row in sorted(record["rows"], key=_order):
        key = (row["head_dim"], row["tokens"])
        if row["batch"] != largest[key] and key != ALL_BATCHES:
            continue
        ours = row["candidates"]["vitzoo"]
        cells = [
            row["direction"],
            *(str(row[size]) for size in ("batch", "tokens", "heads", "head_dim")),
            f"{ours['median_us']:.1f} ({ours['low_us']:.1f}-{ours['high_us']:.1f})",
            f"{ours['roofline']:.0%} {row['bound']}",
            *(_ratio(row["candidates"].get(name, {})) for name in names),
        ]
        yield "| " + " | ".join(cells) + " |"


def with_table(text: str, content: str) -> str:
    """Return a page with other content between the markers.

    Raises:
        ValueError: the page has not one of each marker.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the page needs one {BEGIN} and one {END}")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{head}{BEGIN}\n{content}\n{END}{tail}"


def _order(row: dict[str, Any]) -> tuple[int, int, int, int]:
    direction = ("forward", "backward", "both").index(row["direction"])
    return direction, row["head_dim"], row["tokens"], row["batch"]


def _ratio(candidate: dict[str, Any]) -> str:
    return f"{candidate['ratio']:.2f}x" if "ratio" in candidate else "-"


def _rates(peaks: dict[str, float]) -> str:
    return f"{peaks['bytes_per_s'] / 1e12:.2f} TB/s, {peaks['flops_per_s'] / 1e12:.0f} TFLOP/s"


if __name__ == "__main__":
    main()
