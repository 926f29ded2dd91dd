"""Helpers for testing parts of vitzoo, and parts that plug into it."""

from vitzoo.testing.budget import (
    assert_within_budget,
    check_attention_numbers,
    exact_attention,
    low_precision_attention,
)

__all__ = ["assert_within_budget", "check_attention_numbers", "exact_attention", "low_precision_attention"]
