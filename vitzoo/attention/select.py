"""The choice of an attention backend, and its reasons."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
import vitzoo_kernels
from torch import Tensor

from vitzoo.attention import crossover
from vitzoo.attention.caps import AttentionCaps, AttentionProblem, Reason
from vitzoo.errors import BackendUnsupported, ConfigError
from vitzoo.plugin import get_entry, get_registry

AttnLike: TypeAlias = str | Sequence[str]
CallKey: TypeAlias = tuple[torch.device, torch.dtype, int, bool, bool, bool, bool, bool, bool]

# What "auto" tries, in order; the kernel where it was measured to be faster alone. Installed plugins never enter here.
AUTO = ("triton", "sdpa")


class AttentionFunction(Protocol):
    """A backend: attention over (B, N, H, D), as described in plugins/README.md."""

    def __call__(self, *tensors: Tensor, **options: Any) -> Tensor:
        """Return (B, N_q, H, D), contiguous."""
        ...


@dataclass(frozen=True)
class Backend:
    """A backend that is ready to be called.

    Args:
        name: its registered name.
        function: runs attention.
        caps: what it can do.
        where_faster: 'auto' named it: what was measured, and it runs where it was faster than torch's attention.
    """

    name: str
    function: AttentionFunction
    caps: AttentionCaps
    where_faster: crossover.Table | None = None

    def reasons_against(self, problem: AttentionProblem) -> tuple[Reason, ...]:
        """Return every reason why this backend does not run the call; empty when it does."""
        reasons = self.caps.reasons_against(problem)
        if not reasons and self.where_faster is not None and not _is_faster(problem, self.where_faster):
            return (Reason("not measured to be faster here", f"attn={self.name!r} all the same"),)
        return reasons


def caps_of(name: str) -> AttentionCaps:
    """Return what the backend of that name declares, without importing its code.

    Raises:
        UnknownNameError: no backend has that name.
    """
    caps: AttentionCaps = get_entry("attention", name).meta.get("caps", AttentionCaps())
    return caps


def backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        UnknownNameError: no backend has that name.
        BackendUnsupported: it needs a package that is not installed.
        PluginError: its plugin is missing or its code cannot be imported.
    """
    entry, caps = get_entry("attention", name), caps_of(name)
    missing = caps.never_runs()
    if missing:
        raise BackendUnsupported(_refusal(f"attn={name!r} can never run here", {name: missing}, caps.note))
    # Its packages are not looked for again at every call: torch 2.11 cannot trace through that.
    return Backend(entry.name, entry.load(), replace(caps, packages=()))


class Attend:
    """Runs attention on the backend that the user chose. All layers of a model share one, so that it can be changed.

    Args:
        choice: a backend's name (that one and no other), 'auto', or several in the order in which to try them.

    Raises:
        UnknownNameError: no backend has such a name.
        BackendUnsupported: none of them can ever run here.
        ConfigError: the choice is empty, or neither a name nor a sequence of names.
    """

    def __init__(self, choice: AttnLike = "auto") -> None:
        self.choice: str | tuple[str, ...] = "auto"
        self._backends: tuple[Backend, ...] = ()
        self._by_size = False
        self._plans: dict[tuple[CallKey, tuple[int, int] | None], Backend] = {}
        self.choose(choice)

    def choose(self, choice: AttnLike, *, head_dims: Sequence[int] = ()) -> None:
        """Change the choice, or raise and leave it as it was.

        Args:
            choice: as for the constructor.
            head_dims: the head dims of the layers that will ask; a backend that has none of them is refused now.
        """
        names = (choice,) if isinstance(choice, str) else tuple(choice) if isinstance(choice, Sequence) else ()
        if not names or not all(isinstance(name, str) for name in names):
            known = ", ".join(repr(entry.name) for entry in get_registry().entries("attention"))
            raise ConfigError(
                f"attn={choice!r} is neither a backend's name nor a sequence of names (possible: 'auto', {known})"
            )
        # What "auto" says of the kernel holds at its own place: named before or after, the kernel runs where it can.
        expanded: list[tuple[str, bool]] = []
        for asked in names:
            for name in _automatic() if asked == "auto" else (asked,):
                where_faster = asked == "auto" and name == "triton"
                if (name, False) not in expanded and (name, where_faster) not in expanded:
                    expanded.append((name, where_faster))
        backends, refusals = [], []
        for name, where_faster in expanded:
            try:
                backends.append(replace(backend(name), where_faster=crossover.read() if where_faster else None))
            except BackendUnsupported as error:
                refusals.append(str(error))
        if not backends:
            raise BackendUnsupported("\n".join(dict.fromkeys(refusals)))
        chosen = tuple(backends)
        for head_dim in head_dims:
            _require(names, chosen, head_dim)
        self.choice = choice if isinstance(choice, str) else names
        self._backends = chosen
        self._by_size = any(candidate.where_faster is not None for candidate in chosen)
        self._plans = {}

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends that may run, in the order in which they are tried."""
        return self._backends

    def require(self, *, head_dim: int) -> None:
        """Raise BackendUnsupported when no allowed backend has this head dim, whatever the input."""
        _require((self.choice,) if isinstance(self.choice, str) else self.choice, self._backends, head_dim)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        dropout_p: float = 0.0,
    ) -> Tensor:
        """Compute softmax(q k^T * scale + bias) v.

        Args:
            q: (B, N_q, H, D).
            k: (B, N_k, H, D).
            v: (B, N_k, H, D).
            bias: added to the scores, broadcastable to (B, H, N_q, N_k).
            key_mask: (B, N_k), True where attention may look.
            scale: factor on the scores; D ** -0.5 when None.
            dropout_p: share of weights dropped.

        Returns:
            (B, N_q, H, D), contiguous.

        Raises:
            BackendUnsupported: no allowed backend can run this call; the message holds all reasons.
        """
        options = _asked(bias, key_mask, scale, dropout_p)
        if not q.shape[0]:
            return _of_no_image(q, k, v, options)
        return self._chosen((q, k, v), bias, key_mask, dropout_p).function(q, k, v, **options)

    def packed(
        self,
        qkv: Tensor,
        *,
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        dropout_p: float = 0.0,
    ) -> Tensor:
        """Compute the same of q, k and v in one tensor, whose gradient the backend may then write as one.

        Three gradients of three slices would be put together by a copy of all of them.

        Args:
            qkv: (B, N, 3, H, D).
            bias: as for a call.
            key_mask: as for a call.
            scale: as for a call.
            dropout_p: as for a call.

        Returns:
            (B, N, H, D), contiguous.

        Raises:
            BackendUnsupported: as for a call.
        """
        options = _asked(bias, key_mask, scale, dropout_p)
        if not qkv.shape[0]:
            q, k, v = qkv.unbind(2)
            return _of_no_image(q, k, v, options)
        chosen = self._chosen((qkv,), bias, key_mask, dropout_p)
        packed: AttentionFunction | None = getattr(chosen.function, "packed", None)
        return chosen.function(*qkv.unbind(2), **options) if packed is None else packed(qkv, **options)

    def _chosen(
        self, inputs: tuple[Tensor, ...], bias: Tensor | None, key_mask: Tensor | None, dropout_p: float
    ) -> Backend:
        """Return the backend that runs a call; its inputs are q, k and v, or one tensor of all three."""
        key = call_key(inputs, bias, key_mask, dropout_p)
        if torch.compiler.is_compiling():
            # The choice is made once, while tracing; a cache would be a side effect that makes the graph stale.
            return self.select(problem_of(key, *sizes_of(inputs)))
        # Another thread may choose in between; what was selected by the old choice then stays in the old plans.
        plans, size = self._plans, None
        if self._by_size and inputs[0].is_cuda:
            n_q, _, heads = sizes_of(inputs)
            size = crossover.place(_capability(inputs[0].device), n_q, heads)
        chosen = plans.get((key, size))
        if chosen is None:
            chosen = plans[key, size] = self.select(problem_of(key, *sizes_of(inputs)))
        return chosen

    def select(self, problem: AttentionProblem) -> Backend:
        """Return the first allowed backend that can run the problem.

        Raises:
            BackendUnsupported: none can; the message holds all reasons.
        """
        refusals: dict[str, tuple[Reason, ...]] = {}
        notes = []
        for candidate in self._backends:
            reasons = candidate.reasons_against(problem)
            if not reasons:
                return candidate
            refusals[candidate.name] = reasons
            notes.append(candidate.caps.note)
        able = [name for name in who_can_run(problem) if name not in refusals]
        message = _refusal(f"attn={self.choice!r} cannot run this call", refusals, *notes)
        raise BackendUnsupported(
            f"{message}\n  who could: {', '.join(able) or 'nobody'}; pass attn= or call set_attention"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"choice": self.choice}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["choice"])  # type: ignore[misc]


def who_can_run(problem: AttentionProblem) -> list[str]:
    """Return the names of all registered backends that can run the problem."""
    return [name for name, reasons in refusals_of_all(problem).items() if not reasons]


def refusals_of_all(problem: AttentionProblem) -> dict[str, tuple[Reason, ...]]:
    """Return {backend: reasons against it} for every registered backend."""
    return {entry.name: caps_of(entry.name).reasons_against(problem) for entry in get_registry().entries("attention")}


def call_key(inputs: tuple[Tensor, ...], bias: Tensor | None, key_mask: Tensor | None, dropout_p: float) -> CallKey:
    """Return what the choice of a backend depends on, cheaply: an `AttentionProblem` would cost 3 us a layer.

    Args:
        inputs: q, k and v, or one tensor (B, N, 3, H, D) of all three.
        bias: as for `Attend`.
        key_mask: as for `Attend`.
        dropout_p: as for `Attend`.
    """
    grad, first = torch.is_grad_enabled(), inputs[0]
    shape = first.shape
    return (
        first.device,
        first.dtype,
        shape[-1],
        len(inputs) == 1 or shape[1] == inputs[1].shape[1],
        bias is not None,
        grad and bias is not None and bias.requires_grad,
        key_mask is not None,
        dropout_p > 0,
        grad and any(x.requires_grad for x in inputs),
    )


def sizes_of(inputs: tuple[Tensor, ...]) -> tuple[int, int, int]:
    """Return the number of queries, of keys, and of heads in all images, of inputs as `call_key` takes them."""
    shape = inputs[0].shape
    return shape[1], shape[1] if len(inputs) == 1 else inputs[1].shape[1], shape[0] * shape[-2]


def problem_of(key: CallKey, n_q: int, n_k: int, heads: int) -> AttentionProblem:
    """Return the problem of a call with that key, for n_q queries, n_k keys and so many images times heads."""
    device, dtype, head_dim, _, bias, bias_grad, key_mask, dropout, needs_grad = key
    return AttentionProblem(
        device=device.type,
        capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        dtype=str(dtype).removeprefix("torch."),
        head_dim=head_dim,
        n_q=n_q,
        n_k=n_k,
        heads=heads,
        bias=bias,
        bias_grad=bias_grad,
        key_mask=key_mask,
        dropout=dropout,
        needs_grad=needs_grad,
    )


# Asked in every eager call; torch takes 2 us to say it.
_capability = functools.cache(torch.cuda.get_device_capability)


def _automatic() -> tuple[str, ...]:
    return AUTO if crossover.read() else AUTO[1:]


def _is_faster(problem: AttentionProblem, measured: crossover.Table) -> bool:
    """Return whether the kernel was measured to be faster than torch's attention at a call like this one.

    An exported program holds one choice for all sizes, and runs on machines that nobody measured: never there.
    """
    if torch.compiler.is_exporting():
        return False
    plain = not (problem.bias or problem.key_mask or problem.dropout or problem.varlen or problem.lse)
    if not plain or problem.n_q != problem.n_k or problem.capability not in measured:
        return False
    points = measured[problem.capability].get((problem.dtype, problem.head_dim, problem.needs_grad), {})
    return crossover.wins(points, tokens=problem.n_q, heads=problem.heads)


def _asked(bias: Tensor | None, key_mask: Tensor | None, scale: float | None, dropout_p: float) -> dict[str, Any]:
    """Return the options of a call that are not at their defaults: a backend need accept no others."""
    options: dict[str, Any] = {}
    if bias is not None:
        options["bias"] = bias
    if key_mask is not None:
        options["key_mask"] = key_mask
    if scale is not None:
        options["scale"] = scale
    if dropout_p > 0:
        options["dropout_p"] = dropout_p
    return options


def _of_no_image(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """Return the empty output of an empty batch: there is nothing to run, and some kernels cannot run nothing."""
    return vitzoo_kernels.attention_reference(q, k, v, **options)


def _require(names: Sequence[str], backends: Sequence[Backend], head_dim: int) -> None:
    refusals = {candidate.name: candidate.caps.never_runs(head_dim=head_dim) for candidate in backends}
    if all(refusals.values()):
        asked = repr(names[0]) if len(names) == 1 else repr(tuple(names))
        raise BackendUnsupported(_refusal(f"attn={asked} can never run this model", refusals))


def _refusal(what: str, refusals: dict[str, tuple[Reason, ...]], *notes: str) -> str:
    lines = [f"{what}:"]
    lines += [f"  {name}: {reason}" for name, reasons in refusals.items() for reason in reasons]
    lines += [f"  {note}" for note in dict.fromkeys(notes) if note]
    return "\n".join(lines)
