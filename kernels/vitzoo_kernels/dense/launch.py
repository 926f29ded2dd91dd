"""From tensors to launches: a call finds its plans, or has `planning` make them, and runs them.

What is here runs at every call, and a call should cost the host little more than Triton's own launch of a compiled
kernel: tensors are asked for little, and once. q, k and v are three tensors (B, N, H, D), or one of (B, N, 3, H, D),
which has one layout to look at and is never cut into slices.
"""

from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from vitzoo_kernels.dense import planning
from vitzoo_kernels.dense.extras import PLAIN, Extras
from vitzoo_kernels.dense.plans import Plans, layout

# What the kernels take, in their order and before what a call has beside; a kernel of the backward takes some of it.
FORWARD = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "lse_ptr")
BACKWARD = (*FORWARD[:4], "dout_ptr", "lse_ptr", "dlse_ptr", "delta_ptr", "dq_ptr", "dk_ptr", "dv_ptr", "partial_ptr")

_plans = Plans()

# A contiguous tensor of the same shape, dtype and device: half the host time of torch.empty, which is told all three.
empty_like = partial(torch.empty_like, memory_format=torch.contiguous_format)


def attention_forward(inputs: Sequence[Tensor], scale: float | None, extras: Extras = PLAIN) -> tuple[Tensor, Tensor]:
    """Return out, (B, N_q, H, D), contiguous, dtype of q, and lse, (B, H, N_q), float32.

    Args:
        inputs: q, k and v, or one tensor of all three.
        scale: factor on the scores; D ** -0.5 when None.
        extras: what the call has beside them.

    Raises:
        ValueError: the kernels take no such tensors, or cannot run on their device, or not in their dtype there.
    """
    if _is_elsewhere(inputs[0]):
        with torch.cuda.device(inputs[0].device):
            return attention_forward(inputs, scale, extras)
    at = _addresses(inputs)
    beside, beside_key, beside_at = _NOTHING if extras is PLAIN else _described(extras)
    key = "forward", scale, _key(inputs, at), beside_key
    plans = _plans.get(key) or _plans.keep(key, planning.plan_forward(*_three(inputs), scale, extras))
    plan = plans[0]
    out, lse = empty_like(plan.holds[0]), empty_like(plan.holds[1])
    if plan.launch is None:
        plan.through_triton({**dict(zip(FORWARD, (*_three(inputs), out, lse), strict=True)), **beside})
    else:
        plan.launch(*at, out.data_ptr(), lse.data_ptr(), *beside_at, *plan.rest)
    return out, lse


def attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    scale: float | None,
    extras: Extras = PLAIN,
    *,
    bias_grad: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """Return a contiguous gradient for each of the inputs, in its shape and dtype, and that of the bias or None.

    Args:
        dout: gradient of out, any strides.
        dlse: gradient of lse, or None when it has none.
        inputs: as for the forward.
        out: what the forward returned.
        lse: what the forward returned.
        scale: as for the forward.
        extras: as for the forward.
        bias_grad: whether the bias's gradient is asked for.

    Raises:
        ValueError: the kernels cannot run on the device of the inputs, or not in their dtype there.
    """
    if _is_elsewhere(inputs[0]):
        with torch.cuda.device(inputs[0].device):
            return attention_backward(dout, dlse, inputs, out, lse, scale, extras, bias_grad=bias_grad)
    # The caller does not choose the strides of a gradient: that of out.sum() is one number expanded with stride 0.
    dout = dout if dout.stride(-1) == 1 else dout.contiguous()
    dlse = None if dlse is None else dlse.contiguous()
    at, out_at, dout_at, lse_at = _addresses(inputs), out.data_ptr(), dout.data_ptr(), lse.data_ptr()
    dlse_at = None if dlse is None else dlse.data_ptr()
    beside, beside_key, beside_at = _NOTHING if extras is PLAIN else _described(extras)
    # Whoever kept tensors in between, to save memory, may have laid them elsewhere: nothing of the forward's key holds.
    given = dout.dtype, dout.stride(), dout_at & 15, (out_at | lse_at) & 15, None if dlse_at is None else dlse_at & 15
    key = "backward", scale, _key(inputs, at), beside_key, given, bias_grad
    grads = list(map(empty_like, inputs))
    plans = _plans.get(key)
    if plans is None:
        dq, dk, _ = _three(grads)
        made = planning.plan_backward(dout, *_three(inputs), dq, dk, scale, extras, bias_grad)
        plans = _plans.keep(key, *made)
    # The kernel for queries fills delta, and the later ones read it.
    delta = None if len(plans) == 1 else empty_like(lse)
    shares = torch.empty(plans[2].holds, dtype=torch.float32, device=lse.device) if bias_grad else None
    if plans[-1].launch is None:
        taken = (*_three(inputs), out, dout, lse, dlse, delta, *_three(grads), shares)
        tensors = {**dict(zip(BACKWARD, taken, strict=True)), **beside}
        for plan in plans:
            plan.through_triton(tensors)
    elif delta is None:
        plans[0].launch(*at, out_at, dout_at, lse_at, dlse_at, *_addresses(grads), *beside_at, *plans[0].rest)
    else:
        delta_at, (dq_at, dk_at, dv_at) = delta.data_ptr(), _addresses(grads)
        for_queries, for_keys, *_ = plans
        for_queries.launch(*at, out_at, dout_at, lse_at, dlse_at, delta_at, dq_at, *beside_at, *for_queries.rest)
        for_keys.launch(*at, dout_at, lse_at, delta_at, dk_at, dv_at, *beside_at, *for_keys.rest)
        if shares is not None:
            plans[2].launch(*at, dout_at, lse_at, delta_at, shares.data_ptr(), *beside_at, *plans[2].rest)
    if shares is None:
        return grads, None
    assert extras.bias is not None
    return grads, shares.sum(0).sum_to_size(extras.bias.shape).to(extras.bias.dtype)


def dropout_mask(seed: Tensor, dropout_p: float, shape: tuple[int, int, int, int]) -> Tensor:
    """Return bool, (B, H, N_q, N_k), True where the kernels keep a weight."""
    if _is_elsewhere(seed):
        with torch.cuda.device(seed.device):
            return dropout_mask(seed, dropout_p, shape)
    mask = torch.empty(shape, dtype=torch.uint8, device=seed.device)
    plan = planning.plan_dropout_mask(dropout_p, shape)
    plan.through_triton({"seed_ptr": seed.contiguous(), "mask_ptr": mask})
    return mask.view(torch.bool)


def _is_elsewhere(x: Tensor) -> bool:
    """Return whether a tensor is on another GPU than the current one, which Triton takes whatever the tensors say."""
    return x.is_cuda and torch.cuda.current_device() != x.get_device()


def _three(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, or their gradients."""
    q, k, v = tensors if len(tensors) == 3 else tensors[0].unbind(2)
    return q, k, v


def _addresses(tensors: Sequence[Tensor]) -> tuple[int, int, int]:
    """Return where q, k and v begin, or their gradients."""
    if len(tensors) == 3:
        q, k, v = tensors
        return q.data_ptr(), k.data_ptr(), v.data_ptr()
    (qkv,) = tensors
    begin, step = qkv.data_ptr(), qkv.stride(2) * qkv.itemsize
    return begin, begin + step, begin + 2 * step


def _key(tensors: Sequence[Tensor], at: tuple[int, int, int]) -> Hashable:
    """Return all that a call's plans depend on of q, k and v, which begin at `at`, and of what is set beside them."""
    precision = planning.precision() if tensors[0].dtype is torch.float32 else ""
    if len(tensors) == 1:
        (x,) = tensors
        return precision, x.device, x.dtype, x.shape, x.stride(), at[0] & 15
    q, k, v = tensors
    return (
        *(precision, q.device, q.dtype, q.shape, q.stride(), at[0] & 15),
        *(k.device, k.dtype, k.shape, k.stride(), at[1] & 15),
        *(v.device, v.dtype, v.shape, v.stride(), at[2] & 15),
    )


def _described(extras: Extras) -> tuple[dict[str, Tensor | None], Hashable, tuple[int | None, ...]]:
    """Return the tensors of `Extras`, all that plans depend on of them and the numbers, and their addresses."""
    tensors = extras.tensors
    key = extras.numbers, *map(layout, tensors.values())
    return tensors, key, tuple([None if x is None else x.data_ptr() for x in tensors.values()])


_NOTHING: tuple[dict[str, Tensor | None], Hashable, tuple[int | None, ...]] = {}, (), ()
