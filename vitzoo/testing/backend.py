"""The attention backend under test: what it declares, where it can run here, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vitzoo.attention.caps import AttentionCaps
from vitzoo.registry import Entry
from vitzoo.testing.budget import AttentionFunction, assert_within_budget, check_attention_numbers
from vitzoo.testing.check import Check, Unavailable

DTYPES = ("float32", "float64", "float16", "bfloat16")
# For a backend that takes any head dim: what models have, one that is no multiple of 16 and one that is odd.
ANY_HEAD_DIM = (64, 32, 80, 128, 17)


@dataclass(frozen=True)
class Backend:
    """A registered backend, as the checks see it.

    Args:
        entry: its entry in the registry.
    """

    entry: Entry

    @property
    def caps(self) -> AttentionCaps:
        """What it declares."""
        caps: AttentionCaps = self.entry.meta.get("caps", AttentionCaps())
        return caps

    @cached_property
    def function(self) -> AttentionFunction:
        """The function itself, imported."""
        function: AttentionFunction = self.entry.load()
        return function

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The declared dtypes."""
        return [getattr(torch, name) for name in self.caps.dtypes]

    @property
    def dtype(self) -> torch.dtype:
        """The declared dtype in which a mistake shows best."""
        return getattr(torch, next(name for name in DTYPES if name in self.caps.dtypes))

    @property
    def head_dims(self) -> tuple[int, ...]:
        """The head dims to check: all that are declared, or a few when any is."""
        return ANY_HEAD_DIM if self.caps.head_dims is None else self.caps.head_dims

    @property
    def head_dim(self) -> int:
        """A small declared head dim."""
        return min(self.head_dims, key=lambda dim: (abs(dim - 32), dim))

    @property
    def with_gradients(self) -> bool:
        """Whether it declares gradients."""
        return self.caps.backward

    def qkv(
        self,
        n_q: int,
        n_k: int | None = None,
        *,
        device: str,
        batch: int = 2,
        heads: int = 2,
        dtype: torch.dtype | None = None,
        head_dim: int | None = None,
    ) -> list[Tensor]:
        """Return random q (B, N_q, H, D), k and v (B, N_k, H, D); the same in every dtype but for its rounding."""
        dim = self.head_dim if head_dim is None else head_dim
        shapes = [(batch, n, heads, dim) for n in (n_q, *(n_q if n_k is None else n_k,) * 2)]
        return [
            normal(shape, seed=i).to(device, self.dtype if dtype is None else dtype) for i, shape in enumerate(shapes)
        ]

    def check_numbers(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> None:
        """Hold output, lse and gradients, as far as they are declared, against the budget."""
        unjudged: tuple[str, ...] = ()
        if k.shape[1] == 1:
            _check_single_key(self.function, q, k, v, with_gradients=self.with_gradients)
            if not self.caps.lse:
                return
            unjudged = ("out", "dv")
        check_attention_numbers(
            options.pop("function", self.function),
            q,
            k,
            v,
            with_lse=self.caps.lse,
            with_gradients=self.with_gradients,
            unjudged=unjudged,
            **options,
        )


def _check_single_key(function: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, *, with_gradients: bool) -> None:
    """One key has the weight 1 whatever its score: out is v, dv the sum of dout, and no gradient reaches q and k.

    The budget has no error to measure here. What may be left is a rounding of out and of the terms that cancel, and
    what sums, in whatever order, lose in float32, or in float64 for float64: half an eps of that for each term.
    """
    eps, eps_of_sums = (torch.finfo(x).eps for x in (q.dtype, torch.promote_types(q.dtype, torch.float32)))
    # Two sums of a head dim's terms, which cancel: of dout with v and with out, and the score in forward and backward.
    two_sums = eps + q.shape[-1] * eps_of_sums
    sum_of_queries = q.shape[1] * eps_of_sums / 2
    leaves = [x.detach().requires_grad_(with_gradients) for x in (q, k, v)]
    result = function(*leaves)
    out = result[0] if isinstance(result, tuple) else result
    _assert_off_by_at_most("out", out.double() - v.double(), eps * v.double().abs(), "out is the one key's value")
    if not with_gradients:
        return
    dout = normal(q.shape, seed=9).to(q)
    dq, dk, dv = torch.autograd.grad(out, leaves, dout)
    scale = q.shape[-1] ** -0.5
    terms = two_sums * (dout.double() * v.double()).abs().sum(-1, keepdim=True) * scale
    words = "no gradient of out reaches q and k"
    _assert_off_by_at_most("dq", dq, terms * k.double().abs(), words)
    _assert_off_by_at_most("dk", dk, (terms * q.double().abs()).sum(1, keepdim=True), words)
    # A backward computes the weight anew, as the exponential of a difference of two scores, each with its roundings.
    weight = eps + two_sums * (q.double() * k.double()).abs().sum(-1, keepdim=True) * scale
    wrong = dv.double() - dout.double().sum(1, keepdim=True)
    allowed = ((weight + sum_of_queries) * dout.double().abs()).sum(1, keepdim=True)
    _assert_off_by_at_most("dv", wrong, allowed, "dv is the sum of dout")


def _assert_off_by_at_most(name: str, wrong: Tensor, allowed: Tensor, words: str) -> None:
    assert (wrong.detach().double().abs() <= allowed).all(), (
        f"with one key {words}: {name} is off by up to {_largest(wrong):.2e}, allowed {_largest(allowed):.2e}"
    )


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max())


def normal(shape: Sequence[int], *, seed: int) -> Tensor:
    """Return normal numbers that depend on shape and seed alone."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def is_here(device: str, caps: AttentionCaps) -> str | None:
    """Return what is missing for checks on that device, or None when nothing is."""
    if device == "cpu":
        return None
    if device == "meta":
        return "tensors of device meta have no numbers to check"
    module = getattr(torch, device, None)
    if module is None or not module.is_available():
        return f"needs a device of type {device!r}"
    if device == "cuda" and caps.min_capability and torch.cuda.get_device_capability() < caps.min_capability:
        return "needs a GPU of compute capability {}.{}".format(*caps.min_capability)
    return None


def ready(backend: Backend) -> list[str]:
    """Return the declared devices that are here.

    Raises:
        Unavailable: there is none, or a package that the backend declares is missing.
    """
    reasons = [str(reason) for reason in backend.caps.never_runs()]
    if reasons:
        raise Unavailable("; ".join(reasons))
    missing = {device: is_here(device, backend.caps) for device in backend.caps.devices}
    here = [device for device, lacks in missing.items() if lacks is None]
    if not here:
        raise Unavailable("; ".join(lacks for lacks in missing.values() if lacks) or "no device is declared")
    return here


DeviceCheck = Callable[[Backend, str], None]


def on_devices(entry: Entry, checks: Mapping[str, DeviceCheck]) -> list[Check]:
    """Return checks that run a function on every declared device that is here."""
    bare = entry.name.partition("/")[2] or entry.name

    def bound(function: DeviceCheck) -> Callable[[], None]:
        def run() -> None:
            backend = Backend(entry)
            for device in ready(backend):
                try:
                    function(backend, device)
                except Exception as error:
                    error.add_note(f"on {device}")
                    raise

        return run

    return [Check(f"attention/{bare}:{name}", bound(function)) for name, function in checks.items()]


def refuse_slip(actual: Tensor, truth: Tensor, slips: Mapping[str, Tensor]) -> None:
    """Fail when a result is what a known slip gives, to say so; any other wrong result is left to the budget.

    Args:
        actual: the result under test.
        truth: what it should be, float64.
        slips: {what is wrong: what it then is, float64}.

    Raises:
        AssertionError: the result is ten times nearer to a slip than to the truth; the slip's words are the message.
    """
    assert actual.shape == truth.shape, f"the result has shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    distance = float((actual.double() - truth).norm())
    apart = {words: float((actual.double() - slip).norm()) for words, slip in slips.items()}
    nearest = min(apart, key=lambda words: apart[words])
    assert distance <= 10 * apart[nearest], (
        f"{nearest}: the result is {distance:.2e} from the right one and {apart[nearest]:.2e} from that"
    )


def assert_near(actual: Tensor, truth: Tensor, low: Sequence[Tensor], *, name: str) -> None:
    """Assert one result within the budget; see `assert_within_budget`."""
    assert_within_budget(actual, truth, low, name=name, dtype=actual.dtype)
