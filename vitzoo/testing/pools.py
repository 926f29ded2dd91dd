"""Checks of pools."""

from __future__ import annotations

import torch

from vitzoo.pool.simple import Pool
from vitzoo.registry import Entry
from vitzoo.testing.check import Check
from vitzoo.testing.parts import Kind, Part, part_checks, tokens

PREFIX = 3
POOL = Kind(find=lambda model: model.attn_pool, call=lambda pool, x: pool(x, PREFIX), inputs=tokens)


def pool_checks(entry: Entry) -> list[Check]:
    """Return the checks of a pool."""
    own = {"protocol": check_protocol, "shape": check_shape, "prefix": check_prefix}
    return part_checks(entry, POOL, {**own, "include_prefix": check_include_prefix})


def check_protocol(part: Part) -> None:
    """It is a Pool, which says which tokens are visible."""
    module = part.module()
    assert isinstance(module, Pool), (
        f"{type(module).__name__} is no vitzoo.pool.simple.Pool, whose `visible` leaves out the prefix tokens"
    )


def check_shape(part: Part) -> None:
    """(B, N, C) in, (B, C) out, for any number of tokens."""
    module = part.module()
    for count in (27, 4, 40):
        x = torch.randn(2, count, 32)
        out = part.call(module, x)
        assert out.shape == (2, 32), (
            f"tokens {tuple(x.shape)} are pooled to {tuple(out.shape)}, expected (B, C) = (2, 32)"
        )


def check_prefix(part: Part) -> None:
    """It reads the patches, or the prefix tokens, and not both unless the model pools over the prefix."""
    reads = _reads(part)
    assert any(reads.values()), "the result depends on no token"
    assert not all(reads.values()), (
        f"the result depends on the patches and on the {PREFIX} prefix tokens (class, registers): with "
        "include_prefix=False a pool over patches leaves out the first num_prefix_tokens, as "
        "`self.visible(tokens, num_prefix_tokens)` does"
    )


def check_include_prefix(part: Part) -> None:
    """A pool over patches reads the prefix too when `parts.include_prefix` is set."""
    if _reads(part)["patches"]:
        assert _reads(part, pool_include_prefix=True)["prefix"], (
            "with include_prefix=True the result does not depend on the prefix tokens: the setting is ignored"
        )


def _reads(part: Part, *, pool_include_prefix: bool = False) -> dict[str, bool]:
    """Return whether the result depends on the prefix tokens, and on the patches."""
    module, x = part.module(pool_include_prefix=pool_include_prefix).double(), tokens().double()
    changes = {"prefix": slice(0, PREFIX), "patches": slice(PREFIX, None)}
    found = {}
    with torch.no_grad():
        before = part.call(module, x)
        for name, place in changes.items():
            other = x.clone()
            other[:, place] = torch.randn_like(other[:, place]) * 3
            found[name] = not torch.equal(part.call(module, other), before)
    return found
