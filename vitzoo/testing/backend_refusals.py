"""Are the caps sound, and is every declared no refused with its reasons?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vitzoo.attention.caps import AttentionCaps, AttentionProblem, Reason
from vitzoo.attention.select import Attend
from vitzoo.errors import BackendUnsupported
from vitzoo.registry import Entry
from vitzoo.testing.backend import DTYPES, Backend, normal, ready

DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")
LENGTH = 13


def check_caps(entry: Entry) -> None:
    """The caps are there, and do not contradict themselves."""
    caps = entry.meta.get("caps")
    assert isinstance(caps, AttentionCaps), (
        f"a backend is registered with caps=AttentionCaps(...), which say what it can do; got {caps!r}"
    )
    unknown = [name for name in caps.dtypes if name not in DTYPES]
    assert not unknown, f"caps.dtypes holds {unknown}; dtypes are named {', '.join(DTYPES)}"
    for what, empty in (
        ("devices", not caps.devices),
        ("dtypes", not caps.dtypes),
        ("head_dims", caps.head_dims == ()),
    ):
        assert not empty, f"caps declare no {what}: the backend can never run"
    assert all(isinstance(dim, int) and dim > 0 for dim in caps.head_dims or ()), (
        f"caps.head_dims={caps.head_dims} must be positive integers, or None for any"
    )
    assert caps.bias or not caps.bias_grad, "caps declare bias_grad without bias"
    assert caps.backward or not caps.bias_grad, "caps declare bias_grad without backward"


def declared_noes(backend: Backend) -> dict[str, Callable[[], None]]:
    """Return {what: check} for everything that the caps do not declare."""
    caps = backend.caps
    noes: dict[str, dict[str, Any]] = {}
    dtype = next((name for name in DTYPES if name not in caps.dtypes), None)
    if dtype is not None:
        noes["dtype"] = {"dtype": dtype}
    device = next((name for name in DEVICES if name not in caps.devices), None)
    if device is not None:
        noes["device"] = {"device": device}
    if caps.head_dims is not None:
        noes["head_dim"] = {"head_dim": max(caps.head_dims) + 1}
    if not caps.cross:
        noes["cross"] = {"n_k": LENGTH + 1}
    for field, declared in (
        ("needs_grad", caps.backward),
        ("bias", caps.bias),
        ("bias_grad", caps.bias_grad),
        ("key_mask", caps.key_mask),
        ("dropout", caps.dropout),
        ("varlen", caps.varlen),
        ("lse", caps.lse),
    ):
        if not declared:
            noes[field] = {field: True}
    return {name: partial(check_refused, backend, name, asks) for name, asks in noes.items()}


def check_refused(backend: Backend, what: str, asks: dict[str, Any]) -> None:
    """A call that the caps do not declare has a reason against it, and never reaches the backend."""
    caps = backend.caps
    able = AttentionProblem(
        device=caps.devices[0],
        capability=None,
        dtype=caps.dtypes[0],
        head_dim=backend.head_dim,
        n_q=LENGTH,
        n_k=LENGTH,
    )
    problem = replace(able, **asks)
    reasons = caps.reasons_against(problem)
    shown = ", ".join(f"{name}={value}" for name, value in asks.items())
    assert reasons, f"the caps do not declare {what}, but give no reason against a call with {shown}"
    for reason in reasons:
        assert isinstance(reason, Reason), f"a reason is a Reason(asked, supported); got {reason!r}"
        assert reason.asked, f"a reason says what was asked and what is supported; got {reason!r}"
        assert reason.supported, f"a reason says what was asked and what is supported; got {reason!r}"
    if what not in ("varlen", "lse", "device"):
        _call(backend, what, problem)


def _call(backend: Backend, what: str, problem: AttentionProblem) -> None:
    """Call the backend through vitzoo, as a model does, and see it refused."""
    device = ready(backend)[0]
    dtype = getattr(torch, problem.dtype)
    q, k, v = backend.qkv(problem.n_q, problem.n_k, device=device, dtype=dtype, head_dim=problem.head_dim)
    options: dict[str, Any] = {}
    if problem.bias or problem.bias_grad:
        options["bias"] = normal((1, 1, LENGTH, LENGTH), seed=5).to(q).requires_grad_(problem.bias_grad)
    if problem.key_mask:
        options["key_mask"] = torch.ones(2, LENGTH, dtype=torch.bool, device=device)
    if problem.dropout:
        options["dropout_p"] = 0.25
    if problem.needs_grad:
        q.requires_grad_()
    try:
        Attend(backend.entry.name)(q, k, v, **options)
    except BackendUnsupported:
        return
    raise AssertionError(f"the caps do not declare {what}, but a call that needs it was run instead of refused")
