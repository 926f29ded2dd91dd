"""What an attention backend can do, and what one call asks for: data, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Reason:
    """One reason why a backend cannot run a call.

    Args:
        asked: what the call asks for.
        supported: what the backend can do instead.
    """

    asked: str
    supported: str

    def __str__(self) -> str:
        return f"{self.asked} (supported: {self.supported})"


@dataclass(frozen=True, kw_only=True)
class AttentionProblem:
    """One call to attention, as far as it decides who can run it.

    Args:
        device: 'cpu', 'cuda', ...
        capability: (major, minor) of a CUDA device; None elsewhere.
        dtype: 'float16', 'bfloat16', 'float32', 'float64'.
        head_dim: D.
        n_q: number of queries.
        n_k: number of keys.
        heads: images times heads; 0 when it is not known.
        bias: a bias is added to the scores.
        bias_grad: the bias needs a gradient.
        key_mask: some keys are masked.
        dropout: attention weights are dropped.
        varlen: sequences of several lengths are packed.
        lse: the log-sum-exp is asked for.
        needs_grad: q, k or v needs a gradient.
    """

    device: str
    capability: tuple[int, int] | None
    dtype: str
    head_dim: int
    n_q: int
    n_k: int
    heads: int = 0
    bias: bool = False
    bias_grad: bool = False
    key_mask: bool = False
    dropout: bool = False
    varlen: bool = False
    lse: bool = False
    needs_grad: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionCaps:
    """What a backend can do. What is not declared is not used.

    Args:
        devices: device types, such as ('cuda',).
        dtypes: dtypes by name, such as ('float16', 'float32').
        head_dims: head dims D; None for any.
        packages: pip packages it needs, each with its lowest version, such as (('triton', '3.6'),).
        min_capability: lowest CUDA compute capability.
        backward: gradients of q, k and v.
        cross: N_q may differ from N_k.
        bias: an additive bias, broadcastable to (B, H, N_q, N_k).
        bias_grad: the bias's gradient.
        key_mask: a boolean mask (B, N_k) of the keys.
        dropout: dropout of the weights.
        varlen: packed sequences by cu_seqlens.
        lse: the log-sum-exp as a second output.
        deterministic: two runs are equal bit for bit, backward included.
        note: how to get it to run where it cannot; added to a refusal.

    Raises:
        TypeError: devices, dtypes, head_dims, packages or min_capability are not such tuples.
    """

    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    head_dims: tuple[int, ...] | None = ()
    packages: tuple[tuple[str, str], ...] = ()
    min_capability: tuple[int, int] | None = None
    backward: bool = False
    cross: bool = False
    bias: bool = False
    bias_grad: bool = False
    key_mask: bool = False
    dropout: bool = False
    varlen: bool = False
    lse: bool = False
    deterministic: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        for name, item, example in (
            ("devices", str, "('cuda',)"),
            ("dtypes", str, "('float16', 'float32')"),
            ("head_dims", int, "(64, 128), or None"),
            ("packages", tuple, "(('triton', '3.6'),)"),
            ("min_capability", int, "(8, 0), or None"),
        ):
            value = getattr(self, name)
            if value is None and name in ("head_dims", "min_capability"):
                continue
            fits = isinstance(value, tuple) and all(isinstance(one, item) for one in value)
            pairs = {"packages": value, "min_capability": (value,)}.get(name, ())
            if not fits or any(len(pair) != 2 for pair in pairs):
                raise TypeError(f"AttentionCaps({name}={value!r}) is not like {name}={example}")

    def never_runs(self, *, head_dim: int | None = None) -> tuple[Reason, ...]:
        """Return the reasons that no input can change: a missing package, a head dim."""
        reasons = []
        for package, lowest in self.packages:
            found = installed_version(package)
            if found is None:
                reasons.append(Reason(f"{package} is not installed", f"{package} >= {lowest}"))
            elif _numbers(found) < _numbers(lowest):
                reasons.append(Reason(f"{package} {found} is installed", f"{package} >= {lowest}"))
        if head_dim is not None and self.head_dims is not None and head_dim not in self.head_dims:
            reasons.append(Reason(f"head_dim={head_dim}", ", ".join(map(str, self.head_dims)) or "none"))
        return tuple(reasons)

    def reasons_against(self, problem: AttentionProblem) -> tuple[Reason, ...]:
        """Return every reason why the backend cannot run the call; empty when it can."""
        reasons = list(self.never_runs(head_dim=problem.head_dim))
        if problem.device not in self.devices:
            reasons.append(Reason(f"device={problem.device}", ", ".join(self.devices) or "none"))
        if self.min_capability and problem.capability and problem.capability < self.min_capability:
            lowest = "{}.{}".format(*self.min_capability)
            reasons.append(Reason("compute capability {}.{}".format(*problem.capability), f">= {lowest}"))
        if problem.dtype not in self.dtypes:
            reasons.append(Reason(f"dtype={problem.dtype}", ", ".join(self.dtypes) or "none"))
        if problem.n_q != problem.n_k and not self.cross:
            reasons.append(Reason(f"{problem.n_q} queries to {problem.n_k} keys", "as many queries as keys"))
        if problem.needs_grad and not self.backward:
            reasons.append(Reason("gradients of q, k, v", "inference only"))
        for what, asked, can, instead in (
            ("an additive bias", problem.bias, self.bias, "no bias"),
            ("the gradient of the bias", problem.bias_grad, self.bias_grad, "a bias without gradient"),
            ("a key mask", problem.key_mask, self.key_mask, "no key mask"),
            ("dropout of attention weights", problem.dropout, self.dropout, "dropout 0"),
            ("packed sequences", problem.varlen, self.varlen, "one length a batch"),
            ("the log-sum-exp", problem.lse, self.lse, "the output alone"),
        ):
            if asked and not can:
                reasons.append(Reason(what, instead))
        return tuple(reasons)


def installed_version(package: str) -> str | None:
    """Return the version of an installed pip package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
