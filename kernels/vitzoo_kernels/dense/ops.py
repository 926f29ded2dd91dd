"""The torch operators vitzoo::attention_forward and vitzoo::attention_backward: schemas, fakes and autograd.

Opaque to torch.compile, which traces through them without a graph break. Triton is imported when one first runs.
"""

from typing import Any, cast

import torch
from torch import Tensor

torch.library.define("vitzoo::attention_forward", "(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)")
torch.library.define(
    "vitzoo::attention_backward",
    "(Tensor dout, Tensor dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale)"
    " -> (Tensor, Tensor, Tensor)",
)


def attention_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return out, (B, N_q, H, D), and lse, (B, H, N_q), for arguments that `api.attention` has checked."""
    return cast(tuple[Tensor, Tensor], torch.ops.vitzoo.attention_forward(q, k, v, scale))


@torch.library.impl("vitzoo::attention_forward", "default")
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    from vitzoo_kernels.dense import launch

    return launch.attention_forward(q, k, v, scale)


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    batch, num_queries, num_heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, num_heads, num_queries), dtype=torch.float32)


torch.library.register_fake("vitzoo::attention_forward", _forward_fake)


@torch.library.impl("vitzoo::attention_backward", "default")
def _backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from vitzoo_kernels.dense import launch

    return launch.attention_backward(dout, dlse, q, k, v, out, lse, scale)


def _backward_fake(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


torch.library.register_fake("vitzoo::attention_backward", _backward_fake)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = torch.ops.vitzoo.attention_backward(dout, dlse, *ctx.saved_tensors, ctx.scale)
    return dq, dk, dv, None


torch.library.register_autograd("vitzoo::attention_forward", _differentiate, setup_context=_save)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "a second derivative of vitzoo_kernels.attention was asked for; it has only the first: "
        "use attention_reference, or leave out create_graph=True"
    )


torch.library.register_autograd("vitzoo::attention_backward", _no_second_derivative)
