"""The torch operators of attention: schemas, fakes, autograd, and the shortcut that eager calls take.

Operators are opaque to torch.compile, which traces through them without a graph break. In plain eager mode they would
only cost time (on a CPU 16 us a call with autograd, an autograd.Function 4), so there the launcher is called directly.

`*extras` are the fields of `Extras` in their order; torch leaves out those at the end that have their defaults.
"""

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vitzoo_kernels.dense import flops
from vitzoo_kernels.dense.layouts import scale_of

_PLAIN_TYPES = (Tensor, torch.nn.Parameter, type(None))
_EXTRAS = (
    "Tensor? bias=None, Tensor? key_mask=None, float dropout_p=0.0, Tensor? seed=None,"
    " Tensor? cu_q=None, Tensor? cu_k=None, SymInt max_q=0, SymInt max_k=0"
)
torch.library.define(
    "vitzoo::attention_forward", f"(Tensor q, Tensor k, Tensor v, float scale, {_EXTRAS}) -> (Tensor, Tensor)"
)
# The last result is the gradient of the bias; when it is not asked for, it has no elements.
torch.library.define(
    "vitzoo::attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale, bool bias_grad,"
    f" {_EXTRAS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
# The same for q, k and v in one tensor (B, N, 3, H, D), whose gradient is one tensor too.
torch.library.define("vitzoo::packed_attention_forward", f"(Tensor qkv, float scale, {_EXTRAS}) -> (Tensor, Tensor)")
torch.library.define(
    "vitzoo::packed_attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor qkv, Tensor out, Tensor lse, float scale, bool bias_grad,"
    f" {_EXTRAS}) -> (Tensor, Tensor)",
)


def attend(
    inputs: tuple[Tensor, ...], scale: float | None, extras: tuple[Any, ...], *, eager: bool, with_lse: bool
) -> tuple[Tensor, Any]:
    """Return out, (B, N_q, H, D), and lse, (B, H, N_q).

    Args:
        inputs: q, k and v, or one tensor (B, N, 3, H, D) of all three.
        scale: factor on the scores; D ** -0.5 when None.
        extras: the fields of `Extras`; () when the call has none of it.
        eager: what `is_eager` says of the first input.
        with_lse: whether the caller wants lse; otherwise it may be None.
    """
    if forward_ad._current_level >= 0:
        _refuse_forward_mode(inputs, extras)
    call: Callable[..., tuple[Tensor, Tensor]]
    if not eager:
        call, scale = _operator("forward", inputs), scale_of(scale, inputs[0].shape[-1])
    elif _is_differentiated(inputs, extras):
        call = _Attention.apply
    else:
        results: tuple[Tensor, Any] = _launcher().attention_forward(inputs, scale, extras, with_lse)
        return results
    return call(*inputs, scale, *extras)


def is_eager(x: Tensor) -> bool:
    """Return whether nobody traces, counts or transforms this call, and its device can run it."""
    return (
        not torch.compiler.is_compiling()
        and not x.is_meta
        and type(x) in _PLAIN_TYPES
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def are_plain(*tensors: Tensor | None) -> bool:
    """Return whether none of them is of a class that computes in its own way."""
    return all(type(x) in _PLAIN_TYPES for x in tensors)


def _refuse_forward_mode(inputs: tuple[Tensor, ...], extras: tuple[Any, ...]) -> None:
    # The operators would leave the tangents out, and nobody would see it.
    for x in (*inputs, *extras):
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotImplementedError(
                "forward-mode differentiation (jvp) of vitzoo_kernels.attention was asked for; it has gradients alone: "
                "use attention_reference, or reverse mode"
            )


def _is_differentiated(inputs: tuple[Tensor, ...], extras: tuple[Any, ...]) -> bool:
    """Return whether autograd has to know of a call."""
    if not torch.is_grad_enabled():
        return False
    for x in inputs:
        if x.requires_grad:
            return True
    return any(isinstance(x, Tensor) and x.requires_grad for x in extras) if extras else False


@functools.cache
def _launcher() -> Any:
    # The operators are defined, and traced, without Triton too.
    return import_module("vitzoo_kernels.dense.launch")


def _operator(direction: str, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    name = f"packed_attention_{direction}" if len(inputs) == 1 else f"attention_{direction}"
    return cast(Callable[..., Any], getattr(torch.ops.vitzoo, name))


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    return _launcher().attention_forward((q, k, v), scale, extras)


def _packed_forward(qkv: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    return _launcher().attention_forward((qkv,), scale, extras)


def _backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (dq, dk, dv), dbias = _launcher().attention_backward(
        dout, dlse, (q, k, v), out, lse, scale, extras, bias_grad=bias_grad
    )
    return dq, dk, dv, q.new_empty(0) if dbias is None else dbias


def _packed_backward(
    dout: Tensor,
    dlse: Tensor | None,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
) -> tuple[Tensor, Tensor]:
    (dqkv,), dbias = _launcher().attention_backward(dout, dlse, (qkv,), out, lse, scale, extras, bias_grad=bias_grad)
    return dqkv, qkv.new_empty(0) if dbias is None else dbias


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    batch, num_queries, num_heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, num_heads, num_queries), dtype=torch.float32)


def _packed_forward_fake(qkv: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    q, k, v = qkv.unbind(2)
    return _forward_fake(q, k, v, scale)


def _bias_fake(like: Tensor, bias_grad: bool, bias: Tensor | None = None, *extras: Any) -> Tensor:
    return like.new_empty(0) if bias is None or not bias_grad else bias.new_empty(bias.shape)


def _backward_fake(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        _bias_fake(q, bias_grad, *extras),
    )


def _packed_backward_fake(
    dout: Tensor,
    dlse: Tensor | None,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    bias_grad: bool,
    *extras: Any,
) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), _bias_fake(qkv, bias_grad, *extras)


for _name, _implementation, _fake in (
    ("attention_forward", _forward, _forward_fake),
    ("attention_backward", _backward, _backward_fake),
    ("packed_attention_forward", _packed_forward, _packed_forward_fake),
    ("packed_attention_backward", _packed_backward, _packed_backward_fake),
):
    torch.library.impl(f"vitzoo::{_name}", "default", _implementation)
    torch.library.register_fake(f"vitzoo::{_name}", _fake)


def _count(inputs: tuple[Any, ...]) -> int:
    """Return how many tensors q, k and v are: one if the first has five dimensions."""
    return 1 if inputs[0].ndim == 5 else 3


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # A gradient that nobody asks for stays None, and the kernels skip what belongs to it.
    ctx.set_materialize_grads(False)
    count = _count(inputs)
    ctx.count, ctx.scale, extras = count, inputs[count], inputs[count + 1 :]
    ctx.numbers = [None if isinstance(x, Tensor) else x for x in extras]
    ctx.save_for_backward(*inputs[:count], *output, *[x if isinstance(x, Tensor) else None for x in extras])


def _differentiate(ctx: Any, dout: Tensor | None, dlse: Tensor | None, *, eager: bool = False) -> tuple[Any, ...]:
    """Return a gradient, or None, for each input of the forward."""
    count, numbers = ctx.count, ctx.numbers
    if dout is None and dlse is None:
        return (None,) * (count + 1 + len(numbers))
    saved = ctx.saved_tensors
    inputs, out, lse = saved[:count], saved[count], saved[count + 1]
    dout = torch.zeros_like(out) if dout is None else dout
    extras = tuple(x if number is None else number for x, number in zip(saved[count + 2 :], numbers, strict=True))
    # Torch leaves out the inputs that have their defaults.
    bias_grad = any(ctx.needs_input_grad[count + 1 :])
    if eager:
        grads, dbias = _launcher().attention_backward(
            dout, dlse, inputs, out, lse, ctx.scale, extras, bias_grad=bias_grad
        )
    else:
        scale = scale_of(ctx.scale, out.shape[-1])
        *grads, dbias = _operator("backward", inputs)(dout, dlse, *inputs, out, lse, scale, bias_grad, *extras)
    # Nothing for the scale and what follows the bias.
    return (*grads, None, dbias if bias_grad else None, *[None] * 7)[: count + 1 + len(numbers)]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        count = _count(inputs)
        output = _launcher().attention_forward(inputs[:count], inputs[count], inputs[count + 1 :])
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        given = [x for x in grads if x is not None]
        # With create_graph=True the operator, which says that it has no second derivative; and for whoever traces,
        # counts or batches the backward alone.
        eager = not torch.is_grad_enabled() and all(is_eager(x) for x in given)
        if eager:
            eager = not any(torch._C._functorch.is_legacy_batchedtensor(x) for x in given)
        return _differentiate(ctx, *grads, eager=eager)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "a second derivative of vitzoo_kernels.attention was asked for; it has only the first: "
        "use attention_reference, or leave out create_graph=True"
    )


torch.library.register_autograd("vitzoo::attention_forward", _differentiate, setup_context=_save)
torch.library.register_autograd("vitzoo::packed_attention_forward", _differentiate, setup_context=_save)
torch.library.register_autograd("vitzoo::attention_backward", _no_second_derivative)
torch.library.register_autograd("vitzoo::packed_attention_backward", _no_second_derivative)


# Torch's counter imports Triton, and warns where there is none, as there is nothing to run then.
if find_spec("triton"):
    flops.register()
