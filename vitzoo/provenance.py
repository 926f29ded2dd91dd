"""Where weights come from and under which licence: data that stays with a model through saving and converting."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from vitzoo.errors import CheckpointError, LicenseWarning
from vitzoo.licenses import CUSTOM, NONCOMMERCIAL, PERMISSIVE, UNSTATED, kind_of

_MEANS = {
    NONCOMMERCIAL: "which does not allow commercial use",
    CUSTOM: "which has terms of its own",
    UNSTATED: "so nobody has been given a right to use them",
}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model's weights come from; training does not change it.

    Args:
        source: what they were read from at first: 'hf-hub:org/name', an address, or a file's name.
        revision: the commit of a hub repository, else None.
        checkpoint: 'variant.tag' of vitzoo's tables when the weights are known there, else None.
        license: SPDX identifier, the licence's name when it has none, 'not stated' when it is known that there is none,
            None when the source does not tell.
        url: the address where people find the weights, or None.
        paper: title of the paper, or None.
        arxiv: the paper's arXiv number, or None.
        gated: whether their host asks for the acceptance of conditions.
    """

    source: str
    revision: str | None = None
    checkpoint: str | None = None
    license: str | None = None
    url: str | None = None
    paper: str | None = None
    arxiv: str | None = None
    gated: bool = False

    def to_json(self) -> str:
        """Return the fields as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"the weights' provenance is not JSON: {error}") from error
        own = {field.name for field in fields(cls)}
        texts = data.items() if isinstance(data, dict) else ()
        fit = all(isinstance(value, bool if name == "gated" else str | None) for name, value in texts)
        if not isinstance(data, dict) or not set(data) <= own or not isinstance(data.get("source"), str) or not fit:
            raise CheckpointError(
                f"the weights' provenance has other fields than {', '.join(sorted(own))}: {text[:200]}"
            )
        return cls(**data)

    def conditions(self) -> str | None:
        """Return in a sentence what a user has to know of the licence; None when it is permissive or not known."""
        kind = PERMISSIVE if self.license is None else kind_of(self.license)
        if kind == PERMISSIVE and not self.gated:
            return None
        name = self.checkpoint or self.source
        told = {PERMISSIVE: f"are under {self.license}", UNSTATED: f"state no licence, {_MEANS[UNSTATED]}"}
        text = f"the weights {name} " + told.get(kind, f"are under {self.license}, {_MEANS.get(kind)}")
        gate = "; they are gated: whoever uses them has to have accepted their conditions" if self.gated else ""
        return f"{text}{gate}. Read {self.url}" if self.url else f"{text}{gate}"


def announce(provenance: Provenance) -> None:
    """Warn of a licence that is not permissive, and of a gate: once for a checkpoint and process."""
    text = provenance.conditions()
    if text is not None:
        _warn_once(text)


# Python's own memory of warnings is lost whenever anyone changes a filter, which libraries do all the time.
@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, LicenseWarning, stacklevel=2)
