"""The conformance kit: what a part of vitzoo, or one that plugs into it, must do, as checks.

A plugin's whole test file is

    import vitzoo.testing
    test_acme = vitzoo.testing.suite("acme")

`vitzoo check acme` prints the same as a table.
"""

from vitzoo.testing.attention import check_attention
from vitzoo.testing.budget import assert_within_budget, check_attention_numbers
from vitzoo.testing.check import Check, Outcome, Unavailable
from vitzoo.testing.conformance import outcomes, suite
from vitzoo.testing.yardsticks import exact_attention, low_precision_attention

__all__ = [
    "Check",
    "Outcome",
    "Unavailable",
    "assert_within_budget",
    "check_attention",
    "check_attention_numbers",
    "exact_attention",
    "low_precision_attention",
    "outcomes",
    "suite",
]
