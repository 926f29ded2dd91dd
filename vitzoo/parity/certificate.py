"""What a comparison of two readings of weights found: the differences, and what they were found on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.files import write_json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One output of one reader beside the reference's.

    Args:
        reader: who computed it.
        output: 'out' (what the model returns) or 'tokens' (B, N, C) after the last norm.
        shape: the output's shape.
        max_abs: the largest absolute difference.
        mean_abs: the mean absolute difference.
        max_rel: `max_abs` over the largest absolute value of the reference.
        mean_rel: `mean_abs` over the mean absolute value of the reference.
        equal: whether `max_rel` is at most the tolerance; NaN never is.
    """

    reader: str
    output: str
    shape: tuple[int, ...]
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    equal: bool


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Whether readers of one set of weights compute the same; what `verify` returns.

    Args:
        checkpoint: the files that were verified, with their SHA-256, format and what vitzoo did to read them.
        reference: who computed what the others are compared with, and from which files.
        comparisons: every output of every other reader.
        tolerance: the largest `max_rel` that counts as equal.
        why: where the tolerance comes from.
        images: the inputs: their shape, dtype, seed and scales.
        config: the settings of vitzoo's model.
        versions: of Python, the platform and every package that computed.
        unseen: what this comparison cannot show.
    """

    checkpoint: Mapping[str, Any]
    reference: Mapping[str, Any]
    comparisons: tuple[Comparison, ...]
    tolerance: float
    why: str
    images: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    unseen: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every comparison is within the tolerance."""
        return all(comparison.equal for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a difference that is not finite is written as a string."""
        content = asdict(self)
        for row in content["comparisons"]:
            row |= {name: str(value) for name, value in row.items() if _endless(value)}
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return {"format": FORMAT, "verdict": "equal" if self.equal else "different", **plain}

    def write(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        write_json(path, self.to_dict())


def compare(
    reader: str, outputs: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: float
) -> list[Comparison]:
    """Return a Comparison for every output that both have.

    Raises:
        CheckpointError: they have none in common, or one of another shape.
    """
    shared = [name for name in reference if name in outputs]
    if not shared:
        raise CheckpointError(
            f"{reader} gives {' and '.join(outputs)}, the reference {' and '.join(reference)}: nothing to compare"
        )
    return [_compared(reader, name, outputs[name], reference[name], tolerance) for name in shared]


def _compared(reader: str, output: str, got: Tensor, expected: Tensor, tolerance: float) -> Comparison:
    if got.shape != expected.shape:
        raise CheckpointError(
            f"{output!r} has shape {tuple(got.shape)} in {reader} and {tuple(expected.shape)} in the reference: "
            "these are not the same model"
        )
    difference, size = (got - expected).abs(), expected.abs()
    max_abs, mean_abs = difference.max().item(), difference.mean().item()
    max_rel = _share(max_abs, size.max().item())
    return Comparison(
        reader=reader,
        output=output,
        shape=tuple(got.shape),
        max_abs=max_abs,
        mean_abs=mean_abs,
        max_rel=max_rel,
        mean_rel=_share(mean_abs, size.mean().item()),
        equal=bool(torch.isfinite(got).all() and torch.isfinite(expected).all()) and max_rel <= tolerance,
    )


def _share(difference: float, size: float) -> float:
    return difference / size if size else (0.0 if difference == 0 else math.inf)


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
