"""From checked tensors to kernel launches: what runs where, tiles, strides and grids."""

import contextlib
import re

import torch
import triton
from torch import Tensor

from vitzoo_kernels.dense import configs
from vitzoo_kernels.dense.backward import (
    attention_backward_kv_kernel,
    attention_backward_q_kernel,
    attention_delta_kernel,
)
from vitzoo_kernels.dense.forward import attention_forward_kernel
from vitzoo_kernels.dense.supported import INTERPRETER_DTYPES, MIN_CAPABILITY, MIN_TRITON

LOG2_E = 1.4426950408889634


def attention_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return out, (B, N_q, H, D), contiguous, dtype of `q`, and lse, (B, H, N_q), float32.

    Raises:
        ValueError: the kernels cannot run on the device of `q`, or not in its dtype there.
    """
    _check_device(q)
    batch, num_queries, num_heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, num_heads, num_queries), dtype=torch.float32, device=q.device)
    block_d = _padded(head_dim)
    tiles = configs.FORWARD[q.element_size(), block_d]
    unit, strides = _strides(q, k, v)
    with _on(q.device):
        attention_forward_kernel[(batch * num_heads * triton.cdiv(num_queries, tiles.block_m),)](
            q,
            k,
            v,
            out,
            lse,
            *strides,
            num_heads,
            num_queries,
            k.shape[1],
            scale * LOG2_E,
            HEAD_DIM=head_dim,
            BLOCK_D=block_d,
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            STRIDE_UNIT=unit,
            PRECISION=_precision(),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            enable_fp_fusion=True,
        )
    return out, lse


def attention_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dk and dv, contiguous, in the shapes and dtype of q, k and v.

    Raises:
        ValueError: the kernels cannot run on the device of `q`, or not in its dtype there.
    """
    _check_device(q)
    batch, num_queries, num_heads, head_dim = q.shape
    num_keys = k.shape[1]
    # The caller does not choose the strides of a gradient: that of out.sum() is one number expanded with stride 0.
    dout = dout if dout.stride(-1) == 1 else dout.contiguous()
    dlse = dlse.contiguous()
    delta = torch.empty(lse.shape, dtype=torch.float32, device=q.device)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))

    block_d = _padded(head_dim)
    unit, strides = _strides(q, k, v, dout)
    sizes = (num_heads, num_queries, num_keys, scale)
    inputs = (q, k, v, dout, lse, delta)
    shared = {"HEAD_DIM": head_dim, "BLOCK_D": block_d, "STRIDE_UNIT": unit, "enable_fp_fusion": True}
    with _on(q.device):
        tiles = configs.DELTA
        attention_delta_kernel[(batch * num_heads * triton.cdiv(num_queries, tiles.block_m),)](
            out,
            dout,
            dlse,
            delta,
            *strides[-3:],
            num_heads,
            num_queries,
            BLOCK_M=tiles.block_m,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            **shared,
        )
        tiles = configs.BACKWARD_KV[q.element_size(), block_d]
        attention_backward_kv_kernel[(batch * num_heads * triton.cdiv(num_keys, tiles.block_n),)](
            *inputs,
            dk,
            dv,
            *strides,
            *sizes,
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            PRECISION=_precision(),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            **shared,
        )
        tiles = configs.BACKWARD_Q[q.element_size(), block_d]
        attention_backward_q_kernel[(batch * num_heads * triton.cdiv(num_queries, tiles.block_m),)](
            *inputs,
            dq,
            *strides,
            *sizes,
            BLOCK_M=tiles.block_m,
            BLOCK_N=tiles.block_n,
            PRECISION=_precision(),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
            **shared,
        )
    return dq, dk, dv


def _padded(head_dim: int) -> int:
    # Triton's tiles have powers of two for sides.
    return 1 << (head_dim - 1).bit_length()


def _strides(*tensors: Tensor) -> tuple[int, tuple[int, ...]]:
    """Return the unit, 8 or 1 elements, and each tensor's batch, token and head strides counted in it."""
    assert all(x.stride(-1) == 1 for x in tensors)
    # A dimension of size 1 has an arbitrary stride, which must not cost the others their unit.
    strides = tuple(0 if x.shape[i] == 1 else x.stride(i) for x in tensors for i in range(3))
    # Triton notes which integers divide by 16 and no more, so 72 alone would make every load one element wide.
    unit = 8 if all(stride % 8 == 0 for stride in strides) else 1
    return unit, tuple(stride // unit for stride in strides)


def _precision() -> str:
    """Return how float32 products are rounded, by the rule that torch's own products follow."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    # Triton launches on the current device, whatever the tensors say.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _check_device(q: Tensor) -> None:
    interpreted = not isinstance(attention_forward_kernel, triton.JITFunction)
    if interpreted:
        dtype = str(q.dtype).removeprefix("torch.")
        if dtype not in INTERPRETER_DTYPES:
            raise ValueError(
                f"{dtype} under Triton's interpreter (supported there: {', '.join(INTERPRETER_DTYPES)}); "
                "cast the inputs, or run on a GPU without TRITON_INTERPRET"
            )
    elif q.device.type == "cuda":
        capability = torch.cuda.get_device_capability(q.device)
        if capability < MIN_CAPABILITY:
            raise ValueError(
                f"{torch.cuda.get_device_name(q.device)} has compute capability {capability[0]}.{capability[1]} "
                f"(supported: {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} and above); use attention_reference there"
            )
    else:
        raise ValueError(
            f"attention got tensors on {q.device} (supported: CUDA; the CPU under Triton's interpreter); move them to "
            "a GPU, set TRITON_INTERPRET=1 before the process starts, or use attention_reference"
        )


def _check_triton() -> None:
    version = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2])
    if version < MIN_TRITON:
        raise ImportError(
            f"triton {triton.__version__} is installed (supported: {'.'.join(map(str, MIN_TRITON))} and above); "
            'install a newer one with pip install -U "triton>=3.6"'
        )


_check_triton()
