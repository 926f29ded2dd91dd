"""From a call's tensors to its plans: what runs where, tiles, strides and grids."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from vitzoo_kernels.dense import configs
from vitzoo_kernels.dense.backward import attention_backward_kv_kernel, attention_backward_q_kernel
from vitzoo_kernels.dense.backward_bias import attention_backward_bias_kernel
from vitzoo_kernels.dense.backward_whole import attention_backward_whole_kernel
from vitzoo_kernels.dense.dropout import dropout_mask_kernel
from vitzoo_kernels.dense.extras import Extras, threshold_of
from vitzoo_kernels.dense.forward import attention_forward_kernel
from vitzoo_kernels.dense.forward_whole import attention_forward_whole_kernel
from vitzoo_kernels.dense.layouts import check_layouts, scale_of
from vitzoo_kernels.dense.plans import Plan
from vitzoo_kernels.dense.strides import layout_of, own_strides
from vitzoo_kernels.dense.supported import INTERPRETER_DTYPES, MIN_CAPABILITY, MIN_TRITON

LOG2_E = 1.4426950408889634
# A scale of 0 must leave a masked score of -inf what it is, and 0 times -inf is NaN.
SMALLEST_SCALE = 1e-37
# Triton decided it when it was imported.
INTERPRETED = not isinstance(attention_forward_kernel, triton.JITFunction)


def plan_forward(inputs: Sequence[Tensor], scale: float | None, extras: Extras, with_lse: bool) -> Plan:
    """Return the plan of the forward; it holds out, and lse where that is asked for.

    Raises:
        ValueError: the kernels take no such tensors, or cannot run on their device, or not in their dtype there.
    """
    q, k, v = three(inputs)
    check_layouts(q, k, v)
    _check_device(q)
    scale = scale_of(scale, q.shape[-1])
    batch_heads, num_queries, num_keys = _sizes(q, k, extras)
    ragged = extras.cu_q is not None
    results = [torch.empty(q.shape, dtype=q.dtype, device=q.device)]
    if with_lse:
        results.append(torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32, device=q.device))
    held = _without_memory(*results)
    shared = {
        **layout_of(q=q, k=k, v=v),
        **extras.bias_strides,
        "num_queries": num_queries,
        "num_keys": num_keys,
        "scale_log2": _scale_log2(scale),
        **extras.dropout,
        **_shared(q.shape[-1], scale),
    }
    # One program a head where that leaves no part of a GPU idle; with one tile of queries nothing would be saved.
    many = batch_heads >= configs.MANY_HEADS and not ragged
    tiles = _find_tiles("forward_whole", q, extras, num_keys) if many else None
    if tiles is not None and num_queries > tiles.block_m:
        arguments = {
            **shared,
            "KEYS": triton.cdiv(num_keys, 16) * 16,
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "MASK_N": num_keys % 16 > 0,
            **_options(tiles),
        }
        return Plan(attention_forward_whole_kernel, batch_heads, arguments, holds=held)
    tiles = _tiles("forward", q, extras, num_keys)
    tail_m = tiles.block_m if ragged else _tail(num_queries, tiles.block_m)
    one_tile = num_queries <= tiles.block_m and num_keys <= tiles.block_n and not ragged
    per_program = configs.HEADS_PER_PROGRAM if one_tile else 1
    # A tile of packed sequences may be cut anywhere, so all of them are of the masked kind.
    num_tiles = num_queries // tiles.block_m + (tail_m > 0)
    arguments = {
        **shared,
        "batch_heads": batch_heads,
        **_packing(q, k, extras),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "FULL_M": num_queries >= tiles.block_m and not ragged,
        "TAIL_M": tail_m,
        "FULL_N": num_keys >= tiles.block_n or ragged,
        "TAIL_N": 16 if ragged else _tail_of_tiles(num_keys, tiles.block_n),
        "PER_PROGRAM": per_program,
        "SETTLED": _settles(q.device),
        **_options(tiles),
    }
    return Plan(attention_forward_kernel, triton.cdiv(batch_heads, per_program) * num_tiles, arguments, holds=held)


def plan_backward(
    dout: Tensor, inputs: Sequence[Tensor], scale: float | None, extras: Extras, bias_grad: bool
) -> tuple[Plan, ...]:
    """Return one plan for the whole backward, or two, for queries and for keys, and a third for the bias.

    The first holds the gradients of the inputs.

    Raises:
        ValueError: the kernels cannot run on the device of the inputs, or not in their dtype there.
    """
    q, k, v = three(inputs)
    _check_device(q)
    scale = scale_of(scale, q.shape[-1])
    batch_heads, num_queries, num_keys = _sizes(q, k, extras)
    ragged = extras.cu_q is not None
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
    dq, dk, _ = three(grads)
    held = _without_memory(*grads)
    shared = {
        **layout_of(q=q, k=k, v=v, dout=dout),
        **extras.bias_strides,
        "num_queries": num_queries,
        "num_keys": num_keys,
        "scale_log2": _scale_log2(scale),
        **extras.dropout,
        **_shared(q.shape[-1], scale),
    }
    # With packed sequences, a bias's gradient or too many keys for one program the backward is split.
    whole = None if ragged or bias_grad else _find_tiles("backward_whole", q, extras, num_keys)
    if whole is not None:
        arguments = {
            **shared,
            **own_strides(dq=dq, dkv=dk),
            "scale": scale,
            "KEYS": whole.block_n,
            "BLOCK_M": whole.block_m,
            "MASK_M": num_queries % whole.block_m > 0,
            "FULL_M": num_queries >= whole.block_m,
            "MASK_N": num_keys < whole.block_n,
            **_options(whole),
        }
        return (Plan(attention_backward_whole_kernel, batch_heads, arguments, holds=held),)
    split = {**shared, **_packing(q, k, extras), "scale": scale, "SETTLED": _settles(q.device)}
    tiles = _tiles("backward_q", q, extras, num_keys)
    for_queries = Plan(
        attention_backward_q_kernel,
        batch_heads * triton.cdiv(num_queries, tiles.block_m),
        {
            **split,
            **own_strides(dq=dq),
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "FULL_N": num_keys >= tiles.block_n or ragged,
            "TAIL_N": 16 if ragged else _tail(num_keys, tiles.block_n),
            **_options(tiles),
        },
        holds=held,
    )
    tiles = _tiles("backward_kv", q, extras, num_keys)
    for_keys = Plan(
        attention_backward_kv_kernel,
        batch_heads * triton.cdiv(num_keys, tiles.block_n),
        {
            **split,
            **own_strides(dkv=dk),
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "FULL_M": num_queries >= tiles.block_m or ragged,
            "TAIL_M": 16 if ragged else _tail(num_queries, tiles.block_m),
            **_options(tiles),
        },
    )
    if not bias_grad:
        return for_queries, for_keys
    return for_queries, for_keys, _plan_bias(q, k, extras, shared)


def _plan_bias(q: Tensor, k: Tensor, extras: Extras, shared: dict[str, Any]) -> Plan:
    """Return the plan of the bias's gradient; it holds the partial sums."""
    assert extras.bias is not None
    batch, num_queries, num_heads, _ = q.shape
    num_keys = k.shape[1]
    images, heads = ((1,) * (4 - extras.bias.ndim) + tuple(extras.bias.shape))[:2]
    same = batch * num_heads // (images * heads)
    tiles = _tiles("backward_bias", q, extras, num_keys)
    num_tiles = triton.cdiv(num_queries, tiles.block_m) * triton.cdiv(num_keys, tiles.block_n)
    # From the shape alone, so that the order of the sum is the same on every GPU.
    shares = min(same, max(1, configs.BIAS_PROGRAMS // (images * heads * num_tiles)))
    per_share = triton.cdiv(same, shares)
    shares = triton.cdiv(same, per_share)
    arguments = {
        **shared,
        "shared_heads": num_heads // heads,
        "shared": same,
        "per_share": per_share,
        "bias_images": images,
        "bias_heads": heads,
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        **_options(tiles),
    }
    partial = torch.empty(shares, images, heads, num_queries, num_keys, dtype=torch.float32, device=q.device)
    programs = shares * images * heads * num_tiles
    return Plan(attention_backward_bias_kernel, programs, arguments, holds=_without_memory(partial))


def plan_dropout_mask(dropout_p: float, shape: tuple[int, int, int, int]) -> Plan:
    """Return the plan of the mask of a dropout."""
    batch, num_heads, num_queries, num_keys = shape
    tiles = configs.DROPOUT_MASK
    arguments = {
        "num_queries": num_queries,
        "num_keys": num_keys,
        "threshold": threshold_of(dropout_p),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        **_options(tiles),
    }
    num_tiles = triton.cdiv(num_queries, tiles.block_m) * triton.cdiv(num_keys, tiles.block_n)
    return Plan(dropout_mask_kernel, batch * num_heads * num_tiles, arguments)


def three(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, or their gradients, of three tensors or of one."""
    q, k, v = tensors if len(tensors) == 3 else tensors[0].unbind(2)
    return q, k, v


def _without_memory(*tensors: Tensor) -> tuple[Tensor, ...]:
    # Plans outlive their calls, and the pool of a CUDA graph may lose nothing to them.
    for x in tensors:
        x.untyped_storage().resize_(0)
    return tensors


def _sizes(q: Tensor, k: Tensor, extras: Extras) -> tuple[int, int, int]:
    """Return the number of heads over all sequences, and the queries and keys of the longest.

    What comes after the last packed sequence is one more. The longest lengths decide how many programs there are and
    not what they do, as nobody can check them.
    """
    if extras.cu_q is None:
        return q.shape[0] * q.shape[2], q.shape[1], k.shape[1]
    return extras.cu_q.numel() * q.shape[2], min(extras.max_q, q.shape[1]), min(extras.max_k, k.shape[1])


def _packing(q: Tensor, k: Tensor, extras: Extras) -> dict[str, int]:
    """Return how many sequences are packed, or 0, and in how many tokens."""
    sequences = 0 if extras.cu_q is None else extras.cu_q.numel() - 1
    return {"sequences": sequences, "total_queries": q.shape[1], "total_keys": k.shape[1]}


def _tiles(kernel: str, q: Tensor, extras: Extras, num_keys: int) -> configs.TileConfig:
    """Return the tiles of a kernel that runs any number of keys."""
    tiles = _find_tiles(kernel, q, extras, num_keys)
    assert tiles is not None, f"the table has no {kernel} for D = {q.shape[-1]}"
    return tiles


def _find_tiles(kernel: str, q: Tensor, extras: Extras, num_keys: int) -> configs.TileConfig | None:
    """Return the tiles of a kernel for inputs like `q`, or None where it does not run so many keys."""
    products = precision() if q.dtype == torch.float32 else "16"
    key = configs.Key(kernel, extras.features, products, _dim(q.shape[-1]))
    return configs.find(_capability(q.device), triton.__version__, key, num_keys)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    """Return the GPU's compute capability; the interpreter has the tiles of Hopper, so that those are tested."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _settles(device: torch.device) -> bool:
    """Return whether a loop's products must end with their round: on Hopper, where they run on by themselves."""
    return _capability(device)[0] == 9 and not INTERPRETED


def _tail(num_rows: int, block: int) -> int:
    """Return the tile for the rows that fill no block: a power of two from 16, or 0 when there are none."""
    left_over = num_rows % block
    return max(16, 1 << (left_over - 1).bit_length()) if left_over else 0


def _tail_of_tiles(num_rows: int, block: int) -> int:
    """Return the same where it may be several tiles, the powers of two in a multiple of 16: 80 is 64 and 16."""
    tail = _tail(num_rows, block)
    # Smaller ones cost fewer instructions as one tile than what two would save.
    return tail if tail <= 64 else triton.cdiv(num_rows % block, 16) * 16


def _dim(head_dim: int) -> int:
    return triton.cdiv(head_dim, 16) * 16


def _scale_log2(scale: float) -> float:
    return max(abs(scale) * LOG2_E, SMALLEST_SCALE)


def _shared(head_dim: int, scale: float) -> dict[str, Any]:
    return {
        "HEAD_DIM": head_dim,
        "DIM": _dim(head_dim),
        "NEGATIVE": scale < 0,
        "PRECISION": precision(),
    }


def _options(tiles: configs.TileConfig) -> dict[str, Any]:
    # Fusing is asked for, because Triton's default changes between versions.
    return {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, "enable_fp_fusion": True}


def precision() -> str:
    """Return how float32 products are rounded, by the rule that torch's own products follow."""
    # Also what torch.set_float32_matmul_precision sets; its own getter raises once this was set instead.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _check_device(q: Tensor) -> None:
    if INTERPRETED:
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
