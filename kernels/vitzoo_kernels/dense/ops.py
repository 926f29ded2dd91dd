"""The torch operators of attention: schemas, fakes, autograd, FLOP formulae, and the shortcut that eager calls take.

Operators are opaque to torch.compile, which traces through them without a graph break. In plain eager mode they would
only cost time (on a CPU 16 us a call with autograd, an autograd.Function 4), so there the launcher is called directly.

`*extras` are the fields of `launch.Extras` in their order; torch leaves out those at the end that have their defaults.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

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


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *extras: Any, eager: bool
) -> tuple[Tensor, Tensor]:
    """Return out, (B, N_q, H, D), and lse, (B, H, N_q); `eager` is what `is_eager` says of q."""
    call: Callable[..., Any] = torch.ops.vitzoo.attention_forward
    if eager:
        call = _Attention.apply if _is_differentiated(q, k, v, *extras) else _forward
    return cast(tuple[Tensor, Tensor], call(q, k, v, scale, *extras))


def packed_attention_forward(qkv: Tensor, scale: float, *extras: Any, eager: bool) -> tuple[Tensor, Tensor]:
    """Return what `attention_forward` returns, for q, k and v in one tensor (B, N, 3, H, D)."""
    call: Callable[..., Any] = torch.ops.vitzoo.packed_attention_forward
    if eager:
        call = _PackedAttention.apply if _is_differentiated(qkv, *extras) else _packed_forward
    return cast(tuple[Tensor, Tensor], call(qkv, scale, *extras))


def is_eager(x: Tensor) -> bool:
    """Return whether nobody traces, counts or transforms this call, and its device can run it."""
    return (
        not torch.compiler.is_compiling()
        and not x.is_meta
        and type(x) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _is_differentiated(*inputs: Any) -> bool:
    """Return whether autograd has to know of a call, be it to refuse forward mode."""
    return forward_ad._current_level >= 0 or (
        torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    )


@functools.cache
def _launcher() -> ModuleType:
    # The operators are defined, and traced, without Triton too.
    return import_module("vitzoo_kernels.dense.launch")


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    launch = _launcher()
    return launch.attention_forward(q, k, v, scale, launch.Extras(*extras) if extras else launch.PLAIN)


def _packed_forward(qkv: Tensor, scale: float, *extras: Any) -> tuple[Tensor, Tensor]:
    q, k, v = qkv.unbind(2)
    return _forward(q, k, v, scale, *extras)


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
    launch = _launcher()
    dq, dk, dv, dbias = launch.attention_backward(
        dout, dlse, q, k, v, out, lse, scale, launch.Extras(*extras) if extras else launch.PLAIN, bias_grad=bias_grad
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
    launch = _launcher()
    dqkv = launch.empty_like(qkv)
    q, k, v = qkv.unbind(2)
    dq, dk, dv = dqkv.unbind(2)
    *_, dbias = launch.attention_backward(
        dout,
        dlse,
        q,
        k,
        v,
        out,
        lse,
        scale,
        launch.Extras(*extras) if extras else launch.PLAIN,
        bias_grad=bias_grad,
        into=(dq, dk, dv),
    )
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


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor], *, num_tensors: int) -> None:
    # A gradient that nobody asks for stays None, and the kernels skip what belongs to it.
    ctx.set_materialize_grads(False)
    ctx.num_inputs, ctx.num_tensors, ctx.scale = len(inputs), num_tensors, inputs[num_tensors]
    extras = inputs[num_tensors + 1 :]
    ctx.numbers = [None if isinstance(x, Tensor) else x for x in extras]
    ctx.save_for_backward(*inputs[:num_tensors], *output, *[x if isinstance(x, Tensor) else None for x in extras])


def _differentiate(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None, *, backward: Callable[..., Any]
) -> tuple[Any, ...]:
    """Return a gradient, or None, for each input of the forward."""
    if dout is None and dlse is None:
        return (None,) * ctx.num_inputs
    end = ctx.num_tensors + 2
    *inputs, out, lse = ctx.saved_tensors[:end]
    extras = [x if number is None else number for x, number in zip(ctx.saved_tensors[end:], ctx.numbers, strict=True)]
    # Torch leaves out the inputs that have their defaults.
    bias_grad = any(ctx.needs_input_grad[ctx.num_tensors + 1 :])
    dout = torch.zeros_like(out) if dout is None else dout
    *grads, dbias = backward(dout, dlse, *inputs, out, lse, ctx.scale, bias_grad, *extras)
    grads += [None, dbias if bias_grad else None]  # of scale and bias
    return tuple((grads + [None] * ctx.num_inputs)[: ctx.num_inputs])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _forward(*inputs)
        _save(ctx, inputs, output, num_tensors=3)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        # With create_graph=True the operator, which says that it has no second derivative.
        backward = torch.ops.vitzoo.attention_backward if torch.is_grad_enabled() else _backward
        return _differentiate(ctx, *grads, backward=backward)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _packed_forward(*inputs)
        _save(ctx, inputs, output, num_tensors=1)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        backward = torch.ops.vitzoo.packed_attention_backward if torch.is_grad_enabled() else _packed_backward
        return _differentiate(ctx, *grads, backward=backward)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "a second derivative of vitzoo_kernels.attention was asked for; it has only the first: "
        "use attention_reference, or leave out create_graph=True"
    )


torch.library.register_autograd(
    "vitzoo::attention_forward",
    lambda ctx, *grads: _differentiate(ctx, *grads, backward=torch.ops.vitzoo.attention_backward),
    setup_context=partial(_save, num_tensors=3),
)
torch.library.register_autograd(
    "vitzoo::packed_attention_forward",
    lambda ctx, *grads: _differentiate(ctx, *grads, backward=torch.ops.vitzoo.packed_attention_backward),
    setup_context=partial(_save, num_tensors=1),
)
torch.library.register_autograd("vitzoo::attention_backward", _no_second_derivative)
torch.library.register_autograd("vitzoo::packed_attention_backward", _no_second_derivative)


def _flops(q_shape: Sequence[int], k_shape: Sequence[int]) -> int:
    """Return the operations of one product of all queries with all keys."""
    batch, num_queries, num_heads, head_dim = q_shape
    return 2 * batch * num_heads * num_queries * k_shape[1] * head_dim


def _forward_flops(q_shape: Sequence[int], k_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * _flops(q_shape, k_shape)


def _backward_flops(dout: Any, dlse: Any, q_shape: Sequence[int], k_shape: Sequence[int], *args: Any, **kw: Any) -> int:
    # Scores, dout v^T, dv, dk and dq; what the kernels compute twice is not counted.
    return 5 * _flops(q_shape, k_shape)


def _packed_forward_flops(qkv_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    batch, num_tokens, _, num_heads, head_dim = qkv_shape
    return 2 * _flops((batch, num_tokens, num_heads, head_dim), (batch, num_tokens))


def _packed_backward_flops(dout_shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 5 * _flops(dout_shape, dout_shape)


# Torch's counter imports Triton, and warns where there is none, as there is nothing to run then.
if find_spec("triton"):
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(torch.ops.vitzoo.attention_forward)(_forward_flops)
    register_flop_formula(torch.ops.vitzoo.attention_backward)(_backward_flops)
    register_flop_formula(torch.ops.vitzoo.packed_attention_forward)(_packed_forward_flops)
    register_flop_formula(torch.ops.vitzoo.packed_attention_backward)(_packed_backward_flops)
