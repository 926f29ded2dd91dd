"""Which checks a plugin is to pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from vitzoo.errors import PluginError, UnknownNameError, suggestion
from vitzoo.plugin import get_registry, plugins
from vitzoo.registry import Entry
from vitzoo.testing import attention, blocks, mlps, models, package, patches, pools, positions, weights
from vitzoo.testing.check import Check

CHECKS: dict[str, Callable[[Entry], list[Check]]] = {
    "attention": attention.checks,
    "block": blocks.block_checks,
    "mlp": mlps.mlp_checks,
    "model": models.checks,
    "norm": mlps.norm_checks,
    "patch_embed": patches.patch_embed_checks,
    "pool": pools.pool_checks,
    "pos_embed": positions.pos_embed_checks,
    "rope": positions.rope_checks,
    "weights": weights.checks,
}


def checks_of(plugin: str, *, only: Collection[str] = ()) -> list[Check]:
    """Return the checks of everything that a plugin provides, whatever the machine can run of them.

    Args:
        plugin: its name: that of its entry point, or the namespace of `vitzoo.register`; 'vitzoo' for the built-ins.
        only: shell-style patterns of ids, 'attention/flash4:*'; all when empty.

    Raises:
        PluginError: the plugin is installed, but not available; the message says why.
        UnknownNameError: nothing provides anything under that name, or a pattern matches nothing.
    """
    status = plugins().get(plugin)
    if status is not None and status.state != "loaded":
        raise PluginError(f"plugin {plugin!r} is not available ({status.state}): {status.detail}")
    entries = [entry for entry in get_registry().entries() if entry.provider == plugin]
    if not entries and status is None:
        known = sorted({entry.provider for entry in get_registry().entries()} | set(plugins()))
        raise UnknownNameError(
            f"nothing is provided by a plugin {plugin!r}: install its package, or register its parts first."
            f"{suggestion(plugin, known)}"
        )
    checks = package.checks(plugin, entries) + [check for entry in entries for check in CHECKS[entry.kind](entry)]
    return chosen(checks, only)


def chosen(checks: list[Check], only: Collection[str]) -> list[Check]:
    """Return the checks whose id one of the patterns matches; all when there is no pattern.

    Raises:
        UnknownNameError: a pattern matches nothing.
    """
    ids = [check.id for check in checks]
    for pattern in only:
        if not any(fnmatchcase(id, pattern) for id in ids):
            raise UnknownNameError(f"no check is named {pattern!r}.{suggestion(pattern, ids)}")
    return [check for check in checks if not only or any(fnmatchcase(check.id, pattern) for pattern in only)]
