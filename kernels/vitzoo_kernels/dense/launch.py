"""From tensors to launches: a call finds its plans, or has `planning` make them, and runs them.

What is here runs at every call, and a call should cost the host little more than Triton's own launch of a compiled
kernel: tensors are asked for little, and once. q, k and v are three tensors (B, N, H, D), or one of (B, N, 3, H, D),
which has one layout to look at and is never cut into slices.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from vitzoo_kernels.dense import planning
from vitzoo_kernels.dense.extras import Extras
from vitzoo_kernels.dense.plans import Plans, is_watched, layout

# What the kernels take, in their order and before what a call has beside; a kernel of the backward takes some of it.
FORWARD = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "lse_ptr")
BACKWARD = (*FORWARD[:4], "dout_ptr", "lse_ptr", "dlse_ptr", "delta_ptr", "dq_ptr", "dk_ptr", "dv_ptr", "partial_ptr")

_plans = Plans()

# Half the host time of torch.empty, which is told shape, dtype and device.
empty_like = torch.empty_like
# What torch.cuda.current_device asks when it has made sure that CUDA was initialised; torch without CUDA lacks it.
_current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
_FLOAT32 = torch.float32


def attention_forward(
    inputs: Sequence[Tensor], scale: float | None, extras: tuple[Any, ...] = (), with_lse: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return out, (B, N_q, H, D), contiguous, dtype of q, and lse, (B, H, N_q), float32, or None.

    Args:
        inputs: q, k and v, or one tensor of all three.
        scale: factor on the scores; D ** -0.5 when None.
        extras: the fields of `Extras`; () when the call has none of it.
        with_lse: whether lse is asked for; the backward needs it.

    Raises:
        ValueError: the kernels take no such tensors, or cannot run on their device, or not in their dtype there.
    """
    if _is_elsewhere(inputs[0]):
        with torch.cuda.device(inputs[0].device):
            return attention_forward(inputs, scale, extras, with_lse)
    inputs_key, at = _asked(inputs)
    beside, beside_key, beside_at = _described(Extras(*extras)) if extras else _NOTHING
    key = with_lse, scale, inputs_key, beside_key
    plans = _plans.get(key) or _plans.keep(key, planning.plan_forward(inputs, scale, Extras(*extras), with_lse))
    plan = plans[0]
    out, lse, lse_at = empty_like(plan.holds[0]), None, None
    if with_lse:
        lse = empty_like(plan.holds[1])
        lse_at = lse.data_ptr()
    if plan.launch is None or is_watched():
        plan.through_triton({**dict(zip(FORWARD, (*planning.three(inputs), out, lse), strict=True)), **beside})
    else:
        plan.launch(plan.stream(), *plan.program, *at, out.data_ptr(), lse_at, *beside_at, *plan.rest)
    return out, lse


def attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    scale: float | None,
    extras: tuple[Any, ...] = (),
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
    dout = dout if dout.stride()[-1] == 1 else dout.contiguous()
    dlse = None if dlse is None else dlse.contiguous()
    # Whoever kept tensors in between, to save memory, may have laid them elsewhere: nothing of the forward's key holds.
    out, lse = out.contiguous(), lse.contiguous()
    inputs_key, at = _asked(inputs)
    out_at, dout_at, lse_at = out.data_ptr(), dout.data_ptr(), lse.data_ptr()
    dlse_at = None if dlse is None else dlse.data_ptr()
    beside, beside_key, beside_at = _described(Extras(*extras)) if extras else _NOTHING
    key = "backward", scale, inputs_key, beside_key, *map(layout, (dout, dlse, out, lse)), bias_grad
    plans = _plans.get(key)
    if plans is None:
        if any(x.stride()[-1] != 1 for x in inputs):
            # These too may have been laid elsewhere.
            inputs = [x.contiguous() for x in inputs]
            return attention_backward(dout, dlse, inputs, out, lse, scale, extras, bias_grad=bias_grad)
        plans = _plans.keep(key, *planning.plan_backward(dout, inputs, scale, Extras(*extras), bias_grad))
    grads = [empty_like(x) for x in plans[0].holds]
    # The kernel for queries fills delta, and the later ones read it.
    delta = None if len(plans) == 1 else empty_like(lse)
    shares = empty_like(plans[2].holds[0]) if bias_grad else None
    if plans[-1].launch is None or is_watched():
        taken = (*planning.three(inputs), out, dout, lse, dlse, delta, *planning.three(grads), shares)
        tensors = {**dict(zip(BACKWARD, taken, strict=True)), **beside}
        for plan in plans:
            plan.through_triton(tensors)
    elif delta is None:
        (plan,), to = plans, _addresses(grads)
        plan.launch(plan.stream(), *plan.program, *at, out_at, dout_at, lse_at, dlse_at, *to, *beside_at, *plan.rest)
    else:
        delta_at, (dq_at, dk_at, dv_at) = delta.data_ptr(), _addresses(grads)
        addresses = [
            (*at, out_at, dout_at, lse_at, dlse_at, delta_at, dq_at),
            (*at, dout_at, lse_at, delta_at, dk_at, dv_at),
        ]
        if shares is not None:
            addresses.append((*at, dout_at, lse_at, delta_at, shares.data_ptr()))
        stream = plans[0].stream()
        for plan, begin in zip(plans, addresses, strict=True):
            plan.launch(stream, *plan.program, *begin, *beside_at, *plan.rest)
    if shares is None:
        return grads, None
    bias = Extras(*extras).bias
    assert bias is not None
    return grads, shares.sum(0).sum_to_size(bias.shape).to(bias.dtype)


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
    return x.is_cuda and _current_device() != x.get_device()


def _asked(inputs: Sequence[Tensor]) -> tuple[Hashable, tuple[int, int, int]]:
    """Return all that a call's plans depend on of q, k and v and of what is set beside them, and where they begin."""
    if len(inputs) == 1:
        (x,) = inputs
        strides, dtype = x.stride(), x.dtype
        at = _slices(x, strides)
        precision = planning.precision() if dtype is _FLOAT32 else ""
        return (precision, x.device, dtype, x.shape, strides, at[0] & 15), at
    q, k, v = inputs
    q_at, k_at, v_at = q.data_ptr(), k.data_ptr(), v.data_ptr()
    dtype = q.dtype
    precision = planning.precision() if dtype is _FLOAT32 else ""
    of_q = q.device, dtype, q.shape, q.stride(), q_at & 15
    of_k = k.device, k.dtype, k.shape, k.stride(), k_at & 15
    of_v = v.device, v.dtype, v.shape, v.stride(), v_at & 15
    return (precision, of_q, of_k, of_v), (q_at, k_at, v_at)


def _slices(x: Tensor, strides: tuple[int, ...]) -> tuple[int, int, int]:
    """Return where q, k and v begin in one tensor of such strides, or their gradients."""
    begin, step = x.data_ptr(), strides[2] * x.itemsize
    return begin, begin + step, begin + 2 * step


def _addresses(grads: Sequence[Tensor]) -> tuple[int, int, int]:
    """Return where the gradients of q, k and v begin."""
    if len(grads) == 1:
        return _slices(grads[0], grads[0].stride())
    dq, dk, dv = grads
    return dq.data_ptr(), dk.data_ptr(), dv.data_ptr()


def _described(extras: Extras) -> tuple[dict[str, Tensor | None], Hashable, tuple[int | None, ...]]:
    """Return the tensors of `Extras`, all that plans depend on of them and the numbers, and their addresses."""
    tensors = extras.tensors
    key = extras.numbers, *map(layout, tensors.values())
    return tensors, key, tuple([None if x is None else x.data_ptr() for x in tensors.values()])


_NOTHING: tuple[dict[str, Tensor | None], Hashable, tuple[int | None, ...]] = {}, (), ()
