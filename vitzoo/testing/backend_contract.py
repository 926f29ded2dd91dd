"""Does an attention backend keep the contract around the numbers: shape, memory, and what it may touch?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from vitzoo.testing.backend import Backend, normal
from vitzoo.testing.backend_numbers import first
from vitzoo.testing.check import Unavailable

# Where Python code gets memory that nobody has written to.
ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill with NaN what `torch.empty` and its like return to Python code inside the block."""

    def filling(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate_and_fill(*args: Any, **kwargs: Any) -> Tensor:
            memory = allocate(*args, **kwargs)
            with torch.no_grad():
                return memory.fill_(torch.nan) if memory.is_floating_point() else memory

        return allocate_and_fill

    with ExitStack() as patches:
        for owner, name in ALLOCATORS:
            patches.enter_context(mock.patch.object(owner, name, filling(getattr(owner, name))))
        yield


def check_output(backend: Backend, device: str) -> None:
    """Shape, dtype and layout of the output, and of lse."""
    for length, dtype in ((13, backend.dtypes[0]), (1, backend.dtypes[-1])):
        q, k, v = backend.qkv(length, device=device, dtype=dtype)
        with torch.no_grad():
            out = backend.function(q, k, v)
            assert isinstance(out, Tensor), f"without return_lse the result is one tensor; got {type(out).__name__}"
            assert out.shape == q.shape, f"out has shape {tuple(out.shape)}, expected that of q, {tuple(q.shape)}"
            assert out.dtype == q.dtype, f"out is {out.dtype}, expected that of q, {q.dtype}"
            assert out.device == q.device, f"out is on {out.device}, expected the device of q, {q.device}"
            assert out.is_contiguous(), (
                f"out has strides {out.stride()}; it must be contiguous, to be viewed as (B, N_q, H * D)"
            )
            if not backend.caps.lse:
                continue
            result = backend.function(q, k, v, return_lse=True)
        assert isinstance(result, tuple), f"with return_lse=True the result is (out, lse); got {type(result).__name__}"
        assert len(result) == 2, f"with return_lse=True the result is (out, lse); got {len(result)} items"
        expected = torch.promote_types(dtype, torch.float32)
        shape = (q.shape[0], q.shape[2], q.shape[1])
        assert result[1].shape == shape, f"lse has shape {tuple(result[1].shape)}, expected (B, H, N_q) = {shape}"
        assert result[1].dtype == expected, f"lse is {result[1].dtype}, expected {expected}"


def check_writes_all(backend: Backend, device: str) -> None:
    """Every element of every result is written: the last rows too, and in the gradients."""
    for length in (37, 197):
        inputs = backend.qkv(length, device=device, batch=1)
        with poisoned_memory():
            results = everything(backend, *inputs)
        for name, value in results.items():
            wrong = ~value.isfinite()
            assert not wrong.any(), (
                f"{int(wrong.sum())} of {wrong.numel()} elements of {name} {tuple(value.shape)} are not finite when "
                f"fresh memory holds NaN: they were never written, the first at {tuple(wrong.nonzero()[0].tolist())}"
            )


def check_inputs_unchanged(backend: Backend, device: str) -> None:
    """No input is written to, by the forward or the backward."""
    q, k, v = backend.qkv(13, device=device)
    inputs = {"q": q, "k": k, "v": v}
    options: dict[str, Tensor] = {}
    if backend.caps.bias:
        options["bias"] = normal((2, 2, 13, 13), seed=5).to(q)
    if backend.caps.key_mask:
        options["key_mask"] = torch.arange(13, device=device).expand(2, 13) % 3 > 0
    before = {name: x.clone() for name, x in (inputs | options).items()}
    everything(backend, q, k, v, **options)
    changed = [name for name, x in (inputs | options).items() if not torch.equal(x, before[name])]
    assert not changed, f"the backend wrote into its inputs {', '.join(changed)}"


def check_repeatable(backend: Backend, device: str) -> None:
    """Declared deterministic: two runs give the same bits."""
    inputs = backend.qkv(130, device=device, batch=1)
    runs = [everything(backend, *inputs) for _ in range(2)]
    for name, value in runs[0].items():
        differing = int((value != runs[1][name]).sum())
        assert differing == 0, (
            f"caps declare deterministic=True, but {differing} of {value.numel()} elements of {name} differ between "
            "two runs"
        )


def check_packed(backend: Backend, device: str) -> None:
    """What it offers for q, k and v in one tensor computes the same, with every option that it declares."""
    packed: Any = getattr(backend.function, "packed", None)
    if packed is None:
        raise Unavailable("it offers no packed(qkv) for q, k and v in one tensor")
    options: dict[str, Any] = {"scale": 0.7}
    if backend.caps.bias:
        options["bias"] = normal((2, 37, 37), seed=5).to(device, backend.dtype)
    if backend.caps.key_mask:
        options["key_mask"] = (torch.arange(37, device=device) % 3 > 0).expand(2, -1)

    def unpacked(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        return packed(torch.stack([q, k, v], dim=2), **options)

    inputs = backend.qkv(37, device=device)
    expected = everything(backend, *inputs, **options)
    found = everything(replace(backend, entry=replace(backend.entry, target=unpacked)), *inputs, **options)
    for name, value in expected.items():
        assert torch.equal(found[name], value), f"{name} of packed(qkv) is not that of the function itself"


def everything(backend: Backend, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> dict[str, Tensor]:
    """Return the output, and lse and gradients as far as they are declared, by name."""
    if not backend.with_gradients:
        with torch.no_grad():
            return {"out": first(backend.function(q, k, v, **options))}
    leaves = {"dq": q, "dk": k, "dv": v}
    if "bias" in options and backend.caps.bias_grad:
        leaves["dbias"] = options["bias"]
    # Views of the same memory, so that writing into an input shows there.
    leaves = {name: x.detach().requires_grad_() for name, x in leaves.items()}
    if "dbias" in leaves:
        options = {**options, "bias": leaves["dbias"]}
    out = first(backend.function(leaves["dq"], leaves["dk"], leaves["dv"], **options))
    dout = normal(out.shape, seed=9).to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), dout)
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}
