"""Resizing of position tables and patch kernels, as one weight matrix a side.

`new = weights(height) @ old @ weights(width).T` equals torch's `F.interpolate` for every mode, but has a gradient in
every mode, exports, and compiles to one graph for all sizes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vitzoo.errors import ConfigError, suggestion

MODES = ("nearest", "bilinear", "bicubic")

# The cubic kernels that torch uses: Keys' a without antialiasing, PIL's with it.
CUBIC_PLAIN, CUBIC_ANTIALIAS = -0.75, -0.5


def check_mode(mode: str, *, antialias: bool, align_corners: bool) -> None:
    """Raise ConfigError unless torch's interpolation has this combination."""
    if mode not in MODES:
        raise ConfigError(f"unknown interpolation {mode!r}.{suggestion(mode, MODES)}")
    if antialias and (align_corners or mode == "nearest"):
        raise ConfigError(f"antialias=True does not go with interpolation={mode!r}, align_corners={align_corners}")


def axis_weights(
    old: int, new: int, *, mode: str, antialias: bool, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the matrix (new, old) that resizes one axis as `torch.nn.functional.interpolate` does.

    Sizes stay symbolic: nothing here branches on them, so that one traced graph serves every size.
    """
    out_index = torch.arange(new, device=device).to(dtype)[:, None]
    in_index = torch.arange(old, device=device).to(dtype)[None, :]
    out_size = torch.full((), new, device=device, dtype=dtype)
    if mode == "nearest":
        source = (out_index * (old / out_size)).floor().clamp(max=old - 1)
        return (source == in_index).to(dtype)

    if align_corners:
        center = out_index * ((old - 1) / (out_size - 1).clamp(min=1))
    else:
        center = (out_index + 0.5) * (old / out_size) - 0.5
    kernel = _triangle if mode == "bilinear" else _cubic

    if antialias:
        # Shrinking widens the kernel to cover what falls under one output; enlarging leaves it as it is.
        stretch = (old / out_size).clamp(min=1)
        weights = kernel((in_index - center) / stretch, CUBIC_ANTIALIAS)
        return weights / weights.sum(dim=1, keepdim=True)

    reach = 1 if mode == "bilinear" else 2
    taps = center.floor() + torch.arange(1 - reach, reach + 1, device=device).to(dtype)  # (new, 2 * reach)
    weights = kernel(center - taps, CUBIC_PLAIN)
    # A tap outside the table reads its border, as torch does.
    lands_on = taps.clamp(0, old - 1)[:, :, None] == in_index[:, None, :]  # (new, taps, old)
    return (weights[:, :, None] * lands_on).sum(dim=1)


def resample_table(
    table: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    mode: str = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
) -> Tensor:
    """Resize a table of positions.

    Args:
        table: (1, h * w, C), rows in row-major order of the old grid (h, w).
        old_grid: (h, w).
        new_grid: (H, W), which may be symbolic.
        mode: nearest, bilinear or bicubic.
        antialias: widen the kernel when shrinking.
        align_corners: let the corners of both grids coincide, instead of their borders.

    Returns:
        (1, H * W, C) in the table's dtype, computed in at least float32.
    """
    (old_h, old_w), (new_h, new_w) = old_grid, new_grid
    channels = table.shape[-1]
    dtype = torch.promote_types(table.dtype, torch.float32)
    with without_autocast(table.device):
        rows = axis_weights(
            old_h, new_h, mode=mode, antialias=antialias, align_corners=align_corners, device=table.device, dtype=dtype
        )
        columns = axis_weights(
            old_w, new_w, mode=mode, antialias=antialias, align_corners=align_corners, device=table.device, dtype=dtype
        )
        tall = rows @ table.to(dtype).reshape(old_h, old_w * channels)  # (H, w * C)
        full = columns @ tall.reshape(new_h, old_w, channels)  # (H, W, C)
        return full.reshape(1, new_h * new_w, channels).to(table.dtype)


def resample_patch_kernel(kernel: Tensor, new_size: tuple[int, int]) -> Tensor:
    """Resize a patch embedding's kernel so that resized patches give nearly the tokens that the old ones gave.

    Args:
        kernel: (C, in_chans, h, w).
        new_size: (H, W) in pixels.

    Returns:
        (C, in_chans, H, W): the pseudo-inverse of bicubic, antialiased patch resizing applied to the kernel.

    Source: FlexiViT, arXiv 2212.08013, section 3.4. The resize is separable, so its pseudo-inverse is too.
    """
    dtype = torch.promote_types(kernel.dtype, torch.float32)
    sides = [
        torch.linalg.pinv(
            axis_weights(
                old, new, mode="bicubic", antialias=True, align_corners=False, device=kernel.device, dtype=dtype
            ).T
        )
        for old, new in zip(kernel.shape[-2:], new_size, strict=True)
    ]
    return (sides[0] @ kernel.to(dtype) @ sides[1].T).to(kernel.dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast is off."""
    # Autocast would round the positions themselves to 16 bits. Devices without it, such as meta, need no guard.
    # torch.compile of torch 2.11 cannot trace the second question.
    if device.type in ("cpu", "cuda") or torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _triangle(x: Tensor, _: float) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
