"""Launches that remember what was decided: a call like an earlier one pays for its tensors alone.

Triton looks at every argument of every call before it finds the compiled kernel: 9 to 12 us for 19 arguments, where the
compiled kernel itself takes 3, and half of that goes to what only profilers ask for. A plan keeps all that is no
tensor, and from its second call on the compiled kernel.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from torch import Tensor
from triton import knobs
from triton.runtime import driver

# Batches of ever new lengths must not fill the memory.
MOST_PLANS = 4096

_runtime = knobs.runtime


class Plan:
    """One launch of one kernel with everything decided but its tensors, which are the kernel's first arguments.

    Once it has a `launch`, later calls are `launch(stream(), *program, *addresses, *rest)`, unless somebody watches: of
    a tensor Triton would ask the address, and of CUDA whether it is one; of a number, nothing.

    Args:
        kernel: the Triton kernel.
        programs: how many programs run.
        arguments: every argument that is no tensor, and the launch options, by name.
        holds: tensors without memory, contiguous, like those that a call allocates.
    """

    def __init__(
        self, kernel: Any, programs: int, arguments: dict[str, Any], *, holds: tuple[Tensor, ...] = ()
    ) -> None:
        self.kernel, self.grid, self.arguments, self.holds = kernel, (programs, 1, 1), arguments, holds
        self.compiled: Any = None
        self.launch: Any = None
        self.stream: Any = None
        self.program: tuple[Any, ...] = ()
        self.rest: tuple[Any, ...] = ()

    def through_triton(self, tensors: dict[str, Tensor | None]) -> None:
        """Launch as the first call, which has the kernel compiled.

        Args:
            tensors: those of which later calls give the addresses, by name and in that order; what the kernel does not
                take of them is left out, what it takes beside them is None.
        """
        names = self.kernel.arg_names
        places = [name for name in tensors if name in names]
        assert places == names[: len(places)], f"{self.kernel} takes {names}"
        taken = {name: tensors.get(name) for name in names if name.endswith("_ptr")}
        # Triton compiles, launches and returns the compiled kernel; its interpreter returns None.
        compiled = self.kernel[self.grid](**self.arguments, **taken)
        if compiled is not None:
            # Without anybody who has it, it would be unloaded.
            self.compiled = compiled
            self.rest = tuple(self.arguments.get(name) for name in names[len(places) :])
            self.stream = _current_stream()
            # What hooks would be told, the hook before and the hook after a launch: none.
            self.program = compiled.function, compiled.packed_metadata, None, None, None
            # Last, as another thread may look for it at any time.
            self.launch = partial(compiled.run, *self.grid)


def is_watched() -> bool:
    """Return whether somebody, such as Triton's profiler, has asked Triton to tell of every launch."""
    try:
        return bool(_runtime.launch_enter_hook.calls or _runtime.launch_exit_hook.calls)
    except AttributeError:
        # A hook stands in the place of a chain of them.
        return True


def _current_stream() -> Callable[[], int]:
    """Return what gives the current stream of the device that is current now."""
    return partial(driver.active.get_current_stream, driver.active.get_current_device())


class Plans(dict[Hashable, tuple[Plan, ...]]):
    """The plans of earlier calls, each under all that it depends on."""

    def keep(self, key: Hashable, *plans: Plan) -> tuple[Plan, ...]:
        """Remember the plans of a call, and return them."""
        if len(self) >= MOST_PLANS:
            self.clear()
        self[key] = plans
        return plans


def layout(x: Tensor | None) -> Hashable:
    """Return what a kernel's code and its other arguments depend on of a tensor."""
    # Triton compiles another program for an address that 16 does not divide.
    return None if x is None else (x.device, x.dtype, x.shape, x.stride(), x.data_ptr() & 15)
