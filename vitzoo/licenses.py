"""What licences of weights allow, as far as one word can say it."""

from __future__ import annotations

PERMISSIVE, NONCOMMERCIAL, CUSTOM, UNSTATED = "permissive", "non-commercial", "custom", "not stated"
KINDS = (PERMISSIVE, NONCOMMERCIAL, CUSTOM, UNSTATED)

_PERMISSIVE = frozenset(
    {"0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc-by-4.0", "cc0-1.0", "isc", "mit", "unlicense"}
)
# Licences for research alone, by the names that their publishers gave them.
_RESEARCH = frozenset({"apple-amlr", "fair-noncommercial-research-license"})


def kind_of(license: str) -> str:
    """Return the kind of a licence: permissive, non-commercial, custom (terms of its own to be read) or not stated.

    Args:
        license: SPDX identifier, or the name of the licence when it has none.
    """
    name = license.lower()
    if name in _PERMISSIVE:
        return PERMISSIVE
    if name in _RESEARCH or "nc" in name.split("-"):
        return NONCOMMERCIAL
    return UNSTATED if name == UNSTATED else CUSTOM
