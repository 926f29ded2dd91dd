"""Things registered for one test, and what the kit says of them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import vitzoo
from vitzoo.testing.check import Outcome, run
from vitzoo.testing.collect import checks_of


def outcomes_of(kind: str, target: Any, *patterns: str, name: str = "it", **meta: Any) -> dict[str, Outcome]:
    """Register `target` as wrong/name; return {check: outcome} of the checks that match, of all when none is named."""
    vitzoo.register(kind, f"wrong/{name}", doc="a part of a test", **meta)(target)
    found = [check for check in checks_of("wrong") if check.id.startswith(f"{kind}/{name}:")]
    named = {check.id.partition(":")[2]: check for check in found}
    chosen = {
        name: check for name, check in named.items() if not patterns or any(fnmatchcase(name, p) for p in patterns)
    }
    assert chosen, f"{patterns} match none of {sorted(named)}"
    return {name: run(check) for name, check in chosen.items()}


def fault(kind: str, target: Any, check: str, **meta: Any) -> str:
    """Register `target` and return the words with which one check fails."""
    (outcome,) = outcomes_of(kind, target, check, **meta).values()
    assert outcome.state == "failed", f"{outcome.id} {outcome.state} {outcome.detail}"
    return outcome.detail


def failed(outcomes: dict[str, Outcome]) -> dict[str, str]:
    """Return {check: words} of those that failed."""
    return {name: outcome.detail for name, outcome in outcomes.items() if outcome.bad}
