"""What every module is checked for, a part or a whole model: gradients, dtypes, devices, state, copies, compiling."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.testing.check import Unavailable


class Subject(ABC):
    """How the checks build a module and call it."""

    # Settings with which something is dropped while training.
    dropping: dict[str, Any] = {}  # noqa: RUF012 - read only

    @abstractmethod
    def module(self, *, seed: int = 0, **changes: Any) -> Any:
        """Return a new instance in eval mode, every parameter random.

        Raises:
            Unavailable: there is no module to check.
        """

    @abstractmethod
    def inputs(self) -> Tensor:
        """Return a random input."""

    @abstractmethod
    def call(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return its result for an input."""

    def out_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of the result for an input's."""
        return dtype


def module_checks(*, per_image: bool = True) -> dict[str, Callable[[Any], None]]:
    """Return the checks by name.

    Args:
        per_image: whether the result has a row for each image.
    """
    checks: dict[str, Callable[[Any], None]] = {
        "gradients": check_gradients,
        "dtypes": check_dtypes,
        "meta": check_meta,
        "cuda": check_cuda,
        "state_dict": check_state_dict,
        "deepcopy": check_deepcopy,
        "repeatable": check_repeatable,
    }
    return checks | ({"one_by_one": check_one_by_one} if per_image else {}) | {"compiles": check_compiles}


def check_gradients(subject: Subject) -> None:
    """A gradient reaches every parameter."""
    module = subject.module().train()
    out = subject.call(module, subject.inputs().requires_grad_())
    if not any(True for _ in module.parameters()):
        return
    torch.autograd.backward((out * torch.randn_like(out)).sum())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, (
            f"no gradient reaches the parameter {name}: it does not take part in the result"
        )
        assert parameter.grad.isfinite().all(), f"the gradient of the parameter {name} is not finite"
        assert parameter.grad.any(), f"the gradient of the parameter {name} is zero everywhere"


def check_dtypes(subject: Subject) -> None:
    """`module.to(dtype)` makes it compute in that dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        out = subject.call(subject.module().to(dtype), subject.inputs().to(dtype))
        expected = subject.out_dtype(dtype)
        assert out.dtype == expected, f"moved to {dtype}, it returns {out.dtype} for {dtype}, expected {expected}"
        assert out.isfinite().all(), f"in {dtype} the result is not finite"


def check_meta(subject: Subject) -> None:
    """It can be built and run without memory, which shows a tensor that does not move with the module."""
    real = subject.module()
    empty = subject.module(device="meta")
    kept = {name: tuple(tensor.shape) for name, tensor in real.state_dict().items()}
    on_meta = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    assert kept == on_meta, (
        f"built on the meta device, as when weights are loaded, its state dict is another: {_difference(kept, on_meta)}"
    )
    _runs_on(subject, real, "meta")


def check_cuda(subject: Subject) -> None:
    """It moves to a GPU."""
    if not torch.cuda.is_available():
        raise Unavailable("needs a CUDA GPU")
    _runs_on(subject, subject.module(), "cuda")


def check_state_dict(subject: Subject) -> None:
    """The state dict has the same keys before and after use, and holds all that decides the result."""
    first, second = subject.module(seed=0), subject.module(seed=1)
    x = subject.inputs()
    built = set(first.state_dict())
    subject.call(first.train(), x)
    subject.call(first.eval(), x)
    used = set(first.state_dict())
    assert built == used, f"its state dict has other keys after use: {_difference(built, used)}"
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(subject.call(first, x), subject.call(second, x)), (
        "with the same state dict, another instance computes something else: a value that decides the result is not "
        "in it"
    )


def check_deepcopy(subject: Subject) -> None:
    """A deep copy computes the same and shares nothing."""
    module, x = subject.module(), subject.inputs()
    before = subject.call(module, x)
    clone = copy.deepcopy(module)
    assert torch.equal(subject.call(clone, x), before), "a deep copy computes something else"
    with torch.no_grad():
        for tensor in [*clone.parameters(), *clone.buffers()]:
            tensor.add_(1)
    assert torch.equal(subject.call(module, x), before), "a deep copy shares tensors with the original"


def check_repeatable(subject: Subject) -> None:
    """In eval mode two calls give the same, and the input stays as it was."""
    module, x = subject.module(**subject.dropping), subject.inputs()
    given = x.clone()
    with torch.no_grad():
        first, second = subject.call(module, x), subject.call(module, x)
    assert torch.equal(x, given), "it writes into its input"
    assert torch.equal(first, second), "in eval mode two calls give different results"


def check_one_by_one(subject: Subject) -> None:
    """In eval mode the result for an image does not depend on the images beside it."""
    module, x = subject.module().double(), subject.inputs().double()
    with torch.no_grad():
        together, alone = subject.call(module, x)[:1], subject.call(module, x[:1])
    assert is_close(together, alone), "in eval mode the result for an image depends on the other images of the batch"


def check_compiles(subject: Subject) -> None:
    """torch.compile(fullgraph=True) traces it without a break, and computes the same."""
    module, x = subject.module().double(), subject.inputs().double()
    torch._dynamo.reset()
    compiled = torch.compile(partial(subject.call, module), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert is_close(compiled(x), subject.call(module, x)), "compiled, it computes something else"
    torch._dynamo.reset()


def _runs_on(subject: Subject, module: nn.Module, device: str) -> None:
    expected = subject.call(module, subject.inputs()).shape
    try:
        out = subject.call(module.to(device), subject.inputs().to(device))
    except RuntimeError as error:
        raise AssertionError(f"moved to {device}, it mixes devices: a tensor does not move with it: {error}") from error
    assert out.device.type == device, f"moved to {device}, it returns a tensor on {out.device}"
    assert out.shape == expected, f"on {device} the result has shape {tuple(out.shape)}, elsewhere {tuple(expected)}"


def is_close(left: Tensor, right: Tensor) -> bool:
    """Return whether two results are equal but for the order of their sums."""
    # The same sums in another order: torch's own measure of equality, in the dtype at hand.
    try:
        torch.testing.assert_close(left, right)
    except AssertionError:
        return False
    return True


def _difference(before: Any, after: Any) -> str:
    changed = [name for name in before if name in after and isinstance(before, dict) and before[name] != after[name]]
    return f"gone {sorted(set(before) - set(after))}, new {sorted(set(after) - set(before))}, other shape {changed}"
