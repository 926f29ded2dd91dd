"""What a check is, and what becomes of one that is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

State = Literal["passed", "failed", "skipped", "failed as expected", "passed, though a failure was expected"]
BAD: tuple[State, ...] = ("failed", "passed, though a failure was expected")


class Unavailable(Exception):  # noqa: N818 - nothing went wrong
    """A check cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Check:
    """One thing that the protocol of a kind asks for.

    Args:
        id: 'kind/name:check'.
        function: raises AssertionError with words that say what is wrong, or Unavailable. It draws from torch's
            generators, which are seeded before and put back afterwards.
    """

    id: str
    function: Callable[[], None]

    def __call__(self) -> None:
        """Run it.

        Raises:
            AssertionError: the protocol is broken; any other exception is the checked code's own.
            Unavailable: it cannot run here.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            self.function()


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Args:
        id: 'kind/name:check'.
        state: what happened.
        detail: why it failed, or was skipped; empty when it passed.
    """

    id: str
    state: State
    detail: str = ""

    @property
    def bad(self) -> bool:
        """Whether the plugin does not conform."""
        return self.state in BAD


def run(check: Check, *, expected_failure: str | None = None) -> Outcome:
    """Run a check and return what became of it.

    Args:
        check: what to run.
        expected_failure: why it is expected to fail, if it is.
    """
    try:
        check()
    except Unavailable as missing:
        return Outcome(check.id, "skipped", str(missing))
    except Exception as error:  # the checked code is a stranger's and may raise anything
        if expected_failure is not None:
            return Outcome(check.id, "failed as expected", expected_failure)
        return Outcome(check.id, "failed", describe(error))
    if expected_failure is not None:
        return Outcome(check.id, "passed, though a failure was expected", expected_failure)
    return Outcome(check.id, "passed")


def describe(error: BaseException) -> str:
    """Return the words of an error with its notes, and its type unless it is an AssertionError."""
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return "\n".join([f"{kind}{error}", *getattr(error, "__notes__", ())])
