"""Does an attention backend live with torch.compile, autocast, operators and a whole model?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import vitzoo
from vitzoo.testing.backend import Backend, assert_near
from vitzoo.testing.backend_contract import everything
from vitzoo.testing.backend_numbers import exact, output
from vitzoo.testing.check import Unavailable
from vitzoo.testing.yardsticks import low_precision_attention

# Operators of torch's own, which its own tests check.
TORCHS_OWN = ("aten", "prims", "prim", "profiler", "debugprims", "c10d", "inductor", "higher_order")


def check_autocast(backend: Backend, device: str) -> None:
    """Under autocast the output has the dtype of the inputs or autocast's, is right for that, and gradients flow."""
    if torch.float32 not in backend.dtypes or torch.bfloat16 not in backend.dtypes:
        raise Unavailable("needs a backend of float32 and bfloat16: autocast turns one into the other")
    q, k, v = backend.qkv(37, device=device, dtype=torch.float32)
    with torch.autocast(device, torch.bfloat16):
        out = output(backend, q, k, v)
        results = everything(backend, q, k, v)
    assert out.dtype in (torch.float32, torch.bfloat16), f"under bfloat16 autocast float32 inputs gave {out.dtype}"
    low = [low_precision_attention(*(x.bfloat16() for x in (q, k, v)), order=i)[0] for i in range(4)]
    assert_near(out, exact(q, k, v), low, name="out under autocast")
    for name, value in results.items():
        if name != "out":
            assert value.dtype == torch.float32, f"under autocast {name} is {value.dtype}; the input is float32"
            assert value.isfinite().all(), f"under autocast {name} is not finite"


def check_compiles(backend: Backend, device: str) -> None:
    """torch.compile(fullgraph=True) traces it without a break, and computes the same."""
    torch._dynamo.reset()
    # Inductor is not what is checked, and would take minutes on a CPU.
    compiled = torch.compile(backend.function, fullgraph=True, backend="aot_eager")
    backend.check_numbers(*backend.qkv(37, device=device), function=compiled)
    torch._dynamo.reset()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the operators that are called and that torch does not bring."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave a backend compiled that compiles itself: watched from outside, it runs as it always does."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace not in TORCHS_OWN:
            self.calls.setdefault(func, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def check_opcheck(backend: Backend, device: str) -> None:
    """torch.library.opcheck on every operator that it calls: schema, fake tensors, autograd."""
    q, k, v = backend.qkv(13, device=device)
    with _Recorder() as forward:
        output(backend, q, k, v)
    with _Recorder() as both:
        everything(backend, q, k, v)
    if not both.calls:
        raise Unavailable("it calls no operator of torch.library's")
    for operator, (args, kwargs) in both.calls.items():
        # An operator of the backward need not have a gradient of its own.
        as_leaf = partial(_leaf, requires_grad=backend.with_gradients and operator in forward.calls)
        try:
            with warnings.catch_warnings():
                # opcheck itself reads .grad of tensors that are no leaves.
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                torch.library.opcheck(
                    operator, tuple(map(as_leaf, args)), {name: as_leaf(value) for name, value in kwargs.items()}
                )
        except Exception as error:
            raise AssertionError(f"torch.library.opcheck finds fault with {operator}: {error}") from error


def _leaf(value: Any, *, requires_grad: bool) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_(requires_grad)
    return value


def check_in_a_model(backend: Backend, device: str) -> None:
    """A ViT with attn= this backend runs on it, forward and backward."""
    name = backend.entry.name
    small: dict[str, Any] = {"depth": 1, "img_size": 32, "patch_size": 8, "num_classes": 5, "num_heads": 2}
    model: nn.Module = vitzoo.create(
        "vit_tiny", attn=name, embed_dim=2 * backend.head_dim, device=device, dtype=backend.dtype, **small
    )
    image = torch.randn(2, 3, 32, 32).to(device, backend.dtype)
    with torch.no_grad():
        logits = model.eval()(image)
        report = str(vitzoo.explain_attention(model, image))
    assert logits.isfinite().all(), "the logits of a ViT on this backend are not finite"
    assert f"{name} ran" in report, f"a ViT with attn={name!r} ran something else: {report}"
    if backend.with_gradients:
        model.train()(image).sum().backward()
        missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
        assert not missing, f"no gradient reaches {', '.join(missing)}"
