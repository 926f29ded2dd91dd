"""Who competes: every attention here takes q, k and v, (B, N, H, D), as they lie in memory, and returns (B, N, H, D).

A peer that is not installed, or cannot run a case, says why.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.shapes import Shape

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
OURS = "vitzoo"
SDPA_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
NAMES = (OURS, "sdpa", *SDPA_BACKENDS, "flex", "flash-attn", "fa3", "xformers")


class Unavailable(Exception):  # noqa: N818
    """A peer that cannot run here, with the reason."""


@dataclass(frozen=True)
class Peer:
    """One attention.

    Args:
        name: one of `NAMES`.
        attend: takes q, k and v.
        packed: takes the (B, N, 3, H, D) tensor that a ViT's qkv layer makes, where there is such a function.
    """

    name: str
    attend: Attend
    packed: Callable[[Tensor], Tensor] | None = None

    def attend_packed(self, qkv: Tensor) -> Tensor:
        """Return the attention of a packed tensor, (B, N, H, D)."""
        return self.attend(*qkv.unbind(2)) if self.packed is None else self.packed(qkv)

    def detail(self, q: Tensor, k: Tensor, v: Tensor) -> str | None:
        """Return which of its implementations runs, where the peer chooses one."""
        if self.name != "sdpa":
            return None
        choice = torch._fused_sdp_choice(*(x.transpose(1, 2) for x in (q, k, v)))
        return SDPBackend(choice).name.removesuffix("_ATTENTION").lower()


def make_peer(name: str, shape: Shape) -> Peer:
    """Return a peer for a shape.

    Raises:
        Unavailable: it is not installed, or is not made for this shape.
    """
    if name == OURS:
        from vitzoo_kernels import attention, attention_qkvpacked

        return Peer(name, attention, attention_qkvpacked)
    if name == "sdpa":
        return Peer(name, _sdpa)
    if name in SDPA_BACKENDS:
        return Peer(name, _sdpa_backend(SDPA_BACKENDS[name]))
    if name == "flex":
        return Peer(name, _flex(shape))
    if name == "flash-attn":
        module = _module("flash_attn")
        return Peer(name, module.flash_attn_func, module.flash_attn_qkvpacked_func)
    if name == "fa3":
        function = _module("flash_attn_interface").flash_attn_func
        return Peer(name, lambda q, k, v: _first(function(q, k, v)))
    if name == "xformers":
        return Peer(name, _module("xformers.ops").memory_efficient_attention)
    raise ValueError(f"no peer is called {name!r} (known: {', '.join(NAMES)})")


def why_not(error: Exception, caught: list[warnings.WarningMessage]) -> str:
    """Return one line for a peer that failed: its error, and the warnings in which SDPA says which rule was broken."""
    said = [str(error).strip() or type(error).__name__, *(str(w.message).strip() for w in caught)]
    lines = [line.partition(" (Triggered internally")[0].splitlines()[0] for line in said]
    return " / ".join(dict.fromkeys(line[:200] for line in lines))


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _sdpa_backend(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return _sdpa(q, k, v)

    return attend


def _flex(shape: Shape) -> Attend:
    # Every shape is compiled twice, for inference and for training, at 10 s each: the key shapes get it.
    if shape.batch != 128 or shape.head_dim != 64:
        raise Unavailable("compiled for batch 128 and head dim 64 alone, as it takes long")
    import torch._functorch.config
    from torch.nn.attention.flex_attention import flex_attention

    # One backward is run many times over one forward, whose buffers it must not take for itself.
    torch._functorch.config.donated_buffer = False
    # Beyond a few shapes dynamo stops compiling, and would refuse.
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return attend


def _module(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise Unavailable(f"{error.name} is not installed") from error


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    # Some versions of FlashAttention-3 return the log-sum-exp as well.
    return result[0] if isinstance(result, tuple) else result
