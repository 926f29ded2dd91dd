"""Whether the kernel computes what it should on the devices of this machine: `vitzoo doctor` shows it.

A compiler can be at fault where the kernel is not: a ptxas older than 13.3 may overwrite the registers of a product of
weights and values on Hopper before it was computed, silently (triton-lang/triton, issue 9433).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import vitzoo_kernels

from vitzoo.attention.select import caps_of
from vitzoo.testing.budget import check_attention_numbers

# Dtype, tokens, head dim, images of two heads: several tiles of keys with a tail, on both sides of the split of
# backward kernels, and as many heads as have a forward program each. A compiler can be wrong in one program alone.
ON_A_GPU = (
    (torch.bfloat16, 261, 64, 2),
    (torch.bfloat16, 197, 64, 140),
    (torch.float16, 577, 128, 2),
    (torch.float32, 197, 64, 2),
)
INTERPRETED = ((torch.float32, 37, 16, 2),)
ADVICE = (
    "use another backend than triton here; another Triton, or TRITON_PTXAS_PATH with ptxas >= 13.3, may compile it well"
)


@dataclass(frozen=True)
class KernelCheck:
    """One case that the kernel was run on.

    Args:
        device: where.
        case: what.
        ran: whether it came to an end.
        ok: whether output, log-sum-exp and gradients are within the budget of `check_attention_numbers`.
        detail: what is wrong, or why it did not run, or ''.
    """

    device: str
    case: str
    ran: bool
    ok: bool
    detail: str


def check_kernel() -> list[KernelCheck]:
    """Run the kernel forward and backward on every GPU that it is for, and in Triton's interpreter where that is on.

    Returns:
        One check a case; empty where the kernel cannot run.
    """
    caps = caps_of("triton")
    if caps.never_runs():
        return []
    if os.environ.get("TRITON_INTERPRET") == "1":
        return [_check("cpu", *case) for case in INTERPRETED]
    gpus = [
        f"cuda:{index}"
        for index in range(torch.cuda.device_count())
        if caps.min_capability is None or torch.cuda.get_device_capability(index) >= caps.min_capability
    ]
    return [_check(device, *case) for device in gpus for case in ON_A_GPU]


def _check(device: str, dtype: torch.dtype, num_tokens: int, head_dim: int, batch: int) -> KernelCheck:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, batch, num_tokens, 2, head_dim, generator=generator).to(device, dtype)
    name = str(dtype).removeprefix("torch.")
    case = f"{name}, {batch} images of {num_tokens} tokens, head_dim {head_dim}"
    try:
        check_attention_numbers(vitzoo_kernels.attention, *qkv)
    except AssertionError as error:
        return KernelCheck(device, case, True, False, f"{error}\n{ADVICE}")
    except Exception as error:  # whatever it is, it is what the user wants to see
        return KernelCheck(device, case, False, False, f"{type(error).__name__}: {error}")
    return KernelCheck(device, case, True, True, "")
