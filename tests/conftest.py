"""What all tests share: which of them can run in this process, and a registry that forgets."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Workers of one machine share its cores: torch with a thread a core in each would fight over them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from vitzoo.plugin import get_registry
from vitzoo.registry import Registry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU or the other of Triton's two modes, which it chooses when it is imported."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        if item.get_closest_marker("interpreter") and not interpreted:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1 set before the process starts"))
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let every run draw the same numbers, in fixtures too, and end a worker whose GPU an earlier test broke.

    All later tests of that worker would fail; those of a new worker need not.
    """
    import torch

    if "PYTEST_XDIST_WORKER" in os.environ and item.get_closest_marker("gpu") and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
    # That of the CPU alone: torch.manual_seed goes to the GPU too, and fails where it is broken.
    torch.default_generator.manual_seed(0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The process's registry; what a test registers is gone afterwards."""
    with get_registry().temporary() as registry:
        yield registry
