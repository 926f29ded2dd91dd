"""The suite of a plugin: a parametrised pytest test, or its outcomes for the command."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from vitzoo.errors import UnknownNameError, suggestion
from vitzoo.testing.check import Check, Outcome, Unavailable, run
from vitzoo.testing.collect import checks_of


def suite(
    plugin: str, *, expected_failures: Mapping[str, str] | None = None, only: Collection[str] = ()
) -> Callable[[Check], None]:
    """Return a parametrised pytest test over everything that a plugin provides.

    A plugin's whole test file is `import vitzoo.testing` and `test_acme = vitzoo.testing.suite("acme")`. What
    cannot run on the machine at hand is skipped with what is missing.

    Args:
        plugin: the plugin's name, or the namespace of what `vitzoo.register` has registered before.
        expected_failures: {'kind/name:check': why it fails}; each is a strict xfail, so that one that passes fails.
        only: shell-style patterns of ids, 'mlp/solu:*'; all when empty.

    Raises:
        PluginError: the plugin is installed, but not available; the message says why.
        UnknownNameError: there is no such plugin, or no check has such an id.
    """
    import pytest

    reasons = expected_failures or {}
    cases = [
        pytest.param(
            check,
            id=check.id,
            marks=[pytest.mark.xfail(reason=reasons[check.id], strict=True)] if check.id in reasons else [],
        )
        for check in _checks(plugin, reasons, only)
    ]

    @pytest.mark.parametrize("check", cases)
    def test_conformance(check: Check) -> None:
        try:
            check()
        except Unavailable as missing:
            pytest.skip(str(missing))

    return test_conformance


def outcomes(
    plugin: str, *, expected_failures: Mapping[str, str] | None = None, only: Collection[str] = ()
) -> Iterator[Outcome]:
    """Yield what becomes of each check, as it is run; arguments and errors as for `suite`."""
    reasons = expected_failures or {}
    checks = _checks(plugin, reasons, only)
    return (run(check, expected_failure=reasons.get(check.id)) for check in checks)


def _checks(plugin: str, expected_failures: Mapping[str, str], only: Collection[str]) -> list[Check]:
    checks = checks_of(plugin, only=only)
    ids = [check.id for check in checks]
    for id in expected_failures:
        if id not in ids:
            raise UnknownNameError(
                f"expected_failures names {id!r}, which is no check of {plugin!r}.{suggestion(id, ids)}"
            )
    return checks
