"""What `attn="auto"` goes by, made from what `benchmarks.attention --suite vit` wrote under results/.

    python -m benchmarks.crossover        # writes vitzoo/attention/crossover/sm90.json, ... for what has results

Of each GPU and dtype the newest file counts. A ratio is SDPA's time over vitzoo's at the lower end of its range, so
that `auto` takes the kernel where it was faster in four samples of five.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks import attention_table
from vitzoo.attention import crossover

# float32 is left out: what its products cost hangs on torch's own setting of their precision.
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
TRAINING = {"forward": False, "both": True}
KEY = ("dtype", "head_dim", "training", "tokens", "heads")
MACHINE = ("device", "driver", "cuda", "torch", "triton", "cudnn", "commit", "date")


def main() -> None:
    """Write a file for each generation of GPU that was measured."""
    for arch, content in tables(attention_table.load(attention_table.RESULTS)).items():
        path = crossover.FOLDER / f"sm{arch}.json"
        path.write_text(as_text(content))
        print(f"{path}: {len(content['entries'])} sizes")


def tables(records: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return {90: the content of sm90.json} of what was measured; of two GPUs of a generation, the smaller ratio."""
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if record["dtype"] not in DTYPES:
            continue
        on = record["machine"]
        major, minor = on["capability"]
        content = found.setdefault(10 * major + minor, {"measured_on": [], "entries": {}})
        content["measured_on"].append({"dtype": record["dtype"], **{name: on[name] for name in MACHINE}})
        for row in record["rows"]:
            sdpa = row["candidates"].get("sdpa", {})
            if row["direction"] in TRAINING and "ratio_low" in sdpa:
                training, heads = TRAINING[row["direction"]], row["batch"] * row["heads"]
                key = (DTYPES[record["dtype"]], row["head_dim"], training, row["tokens"], heads)
                ratio = min(round(sdpa["ratio_low"], 3), content["entries"].get(key, float("inf")))
                content["entries"][key] = ratio
    for content in found.values():
        content["entries"] = [
            dict(zip(KEY, key, strict=True)) | {"ratio": ratio} for key, ratio in sorted(content["entries"].items())
        ]
    return found


def as_text(content: dict[str, Any]) -> str:
    """Return a table's file, an entry a line."""
    lines = {name: ",\n  ".join(map(json.dumps, rows)) for name, rows in content.items()}
    return "{" + ",".join(f'\n "{name}": [\n  {rows}\n ]' for name, rows in lines.items()) + "\n}\n"


if __name__ == "__main__":
    main()
