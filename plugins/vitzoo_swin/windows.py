"""Windows over a grid of tokens: cutting, shifting, and what a token may look at.

Shapes: B images, R rows and K columns of tokens, H heads, D head dim; a window (h, w) has N = h * w tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

# What the models were trained with in place of minus infinity.
MASKED = -100.0


@dataclass(frozen=True)
class Region:
    """Windows of a shifted grid that are masked alike.

    Args:
        rows: (first, last + 1) row of tokens.
        columns: (first, last + 1) column of tokens.
        wraps_down: the windows hold rows from both ends of the image.
        wraps_right: the windows hold columns from both ends of the image.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    wraps_down: bool
    wraps_right: bool


def regions(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> list[list[Region]]:
    """Return the regions of a grid of whole windows, row by row.

    A cyclic shift brings together tokens from opposite ends of the image, in the last row of windows, in the last
    column, and both in the corner; all other windows are masked nowhere. So there is one region without a shift, two
    with a shift along one side, and at most four.
    """
    return [
        [Region(rows, columns, down, right) for columns, right in _spans(grid[1], window[1], shift[1])]
        for rows, down in _spans(grid[0], window[0], shift[0])
    ]


def cut(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut (B, R, K, H, D) into windows (B * windows, N, H, D)."""
    return rearrange(x, "b (r h) (k w) heads d -> (b r k) (h w) heads d", h=window[0], w=window[1])


def join(windows: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Put windows (B * windows, N, H, D) together to (B, R, K, H * D); the way back from `cut`."""
    (height, width), (rows, columns) = window, grid
    return rearrange(
        windows,
        "(b r k) (h w) heads d -> b (r h) (k w) (heads d)",
        h=height,
        w=width,
        r=rows // height,
        k=columns // width,
    )


def bias_of(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Lay a table of offsets out as the bias of one window, by strides alone: there is no index to keep.

    Args:
        table: ((2h - 1) * (2w - 1), H), a row for each offset of a query from a key, from (1 - h, 1 - w) on.
        window: (h, w).

    Returns:
        (1, H, N, N).
    """
    height, width = window
    offsets = table.reshape(2 * height - 1, 2 * width - 1, -1)
    # The offset of row y from row v is at y + (h - 1 - v): a sliding view over it, read backwards.
    sliding = offsets.unfold(0, height, 1).unfold(1, width, 1)  # (h, w, H, h, w)
    return rearrange(sliding.flip(3, 4), "y x heads v u -> 1 heads (y x) (v u)")


def mask_of(region: Region, window: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor | None:
    """Return what keeps tokens from both ends of the image apart, (N, N), 0 or `MASKED`; None where there are none."""
    if not (region.wraps_down or region.wraps_right):
        return None
    (height, width), (down, right) = window, shift
    rows = torch.arange(height, device=like.device) >= height - down
    columns = torch.arange(width, device=like.device) >= width - right
    parts = torch.zeros(height, width, dtype=torch.long, device=like.device)
    if region.wraps_down:
        parts = parts + 2 * rows[:, None]
    if region.wraps_right:
        parts = parts + columns
    parts = parts.flatten()
    return (parts[:, None] != parts).to(like.dtype) * MASKED


def _spans(length: int, window: int, shift: int) -> Iterator[tuple[tuple[int, int], bool]]:
    if not shift:
        yield (0, length), False
        return
    if length > window:
        yield (0, length - window), False
    yield (length - window, length), True
