"""Launches that remember what was decided: a call like an earlier one pays for its tensors alone.

Triton looks at every argument of every call before it finds the compiled kernel: 9 to 12 us for 19 arguments, where the
compiled kernel itself takes 3. A plan keeps all that is no tensor, and from its second call on the compiled kernel.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

# Batches of ever new lengths must not fill the memory.
MOST_PLANS = 4096


class Plan:
    """One launch of one kernel with everything decided but its tensors.

    Args:
        kernel: the Triton kernel.
        programs: how many programs run.
        arguments: every argument that is no tensor, and the launch options, by name.
        never: names of tensors that the kernel does not take, and that are None whenever it runs.
        holds: what the caller wants to find again, such as the shape of a result.
    """

    def __init__(
        self,
        kernel: Any,
        programs: int,
        arguments: dict[str, Any],
        *,
        never: tuple[str, ...] = (),
        holds: Any = None,
    ) -> None:
        self.kernel, self.grid, self.arguments, self.never, self.holds = (
            kernel,
            (programs, 1, 1),
            arguments,
            never,
            holds,
        )
        self._launch: Any = None
        self._values: list[Any] = []
        self._places: list[tuple[int, str]] = []

    def __call__(self, tensors: dict[str, Tensor | None]) -> None:
        """Launch on these tensors, whose layouts are those that the plan was made for."""
        if self._launch is None:
            # Triton compiles, launches and returns the compiled kernel; its interpreter returns None.
            taken = {name: x for name, x in tensors.items() if name not in self.never}
            compiled = self.kernel[self.grid](**self.arguments, **taken)
            if compiled is not None:
                names = self.kernel.arg_names
                self._values = [self.arguments.get(name) for name in names]
                self._places = [(i, name) for i, name in enumerate(names) if tensors.get(name) is not None]
                # Last, as another thread may look for it at any time.
                self._launch = compiled[self.grid]
            return
        values = self._values.copy()
        for i, name in self._places:
            # Of a tensor Triton asks the address, and of CUDA whether it is one; of a number, nothing.
            values[i] = tensors[name].data_ptr()  # type: ignore[union-attr]
        self._launch(*values)


class Plans:
    """The plans of earlier calls, each under all that it depends on."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Plan, ...]] = {}

    def find(self, key: Hashable) -> tuple[Plan, ...] | None:
        """Return the plans of a call, or None for a new one."""
        return self._kept.get(key)

    def keep(self, key: Hashable, *plans: Plan) -> tuple[Plan, ...]:
        """Remember the plans of a call, and return them."""
        if len(self._kept) >= MOST_PLANS:
            self._kept.clear()
        self._kept[key] = plans
        return plans


def layout(x: Tensor | None) -> Hashable:
    """Return what a kernel's code and its other arguments depend on of a tensor."""
    # Triton compiles another program for an address that 16 does not divide.
    return None if x is None else (x.dtype, x.shape, x.stride(), x.data_ptr() & 15)


def run(device: torch.device, *launches: tuple[Plan, dict[str, Tensor | None]]) -> None:
    """Launch in order, on the device of the tensors: Triton itself takes the current one, whatever the tensors say."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        for plan, tensors in launches:
            plan(tensors)
    else:
        with torch.cuda.device(device):
            for plan, tensors in launches:
                plan(tensors)
