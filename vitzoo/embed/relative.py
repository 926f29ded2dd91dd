"""Resizing of relative-position tables: one bias a head for every offset between two tokens of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from vitzoo.embed.resample import axis_weights, without_autocast
from vitzoo.errors import InputError

SPACINGS = ("even", "geometric")


def resample_bias_table(
    table: Tensor,
    old_window: tuple[int, int],
    new_window: tuple[int, int],
    *,
    spacing: str = "even",
    extra: int = 0,
) -> Tensor:
    """Resize a table of relative positions to another window.

    Args:
        table: ((2h - 1) * (2w - 1) + extra, H): a row an offset, those of one row of the window next to each other;
            then `extra` rows that stay as they are, such as BEiT's three of the class token.
        old_window: (h, w) in tokens.
        new_window: (h, w) in tokens.
        spacing: 'even': bicubic, as if the offsets of both windows spanned one range (Swin Transformer's own loader,
            arXiv 2103.14030; timm's `resize_rel_pos_bias_table_simple`). 'geometric': the old offsets lie ever further
            apart, so that near ones keep their bias and far ones are stretched, with straight lines between them
            (BEiT's, arXiv 2106.08254, which draws cubics; timm's `resize_rel_pos_bias_table`, which its Swin uses too).
        extra: number of rows at the end that are no offsets.

    Returns:
        ((2h' - 1) * (2w' - 1) + extra, H) in the table's dtype, computed in at least float32.

    Raises:
        InputError: the table is not one of `old_window`, or there is no such spacing.
    """
    if spacing not in SPACINGS:
        raise InputError(f"spacing={spacing!r} is unknown (possible: {', '.join(SPACINGS)})")
    (old_h, old_w), (new_h, new_w) = ((2 * h - 1, 2 * w - 1) for h, w in (old_window, new_window))
    if table.ndim != 2 or extra < 0 or table.shape[0] != old_h * old_w + extra:
        raise InputError(
            f"a table of shape {tuple(table.shape)} is none of a window {old_window}: it would have "
            f"{old_h} * {old_w} + {extra} = {old_h * old_w + extra} rows and a column a head"
        )
    if old_window == new_window:
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    weights = _bicubic if spacing == "even" else _geometric
    with without_autocast(table.device):
        rows = weights(old_h, new_h, device=table.device, dtype=dtype)
        columns = weights(old_w, new_w, device=table.device, dtype=dtype)
        offsets = table[: old_h * old_w].to(dtype).reshape(old_h, old_w, -1)
        resized = torch.einsum("Yy,Xx,yxh->YXh", rows, columns, offsets).reshape(new_h * new_w, -1)
        return torch.cat([resized.to(table.dtype), table[old_h * old_w :]])


def _bicubic(old: int, new: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    return axis_weights(old, new, mode="bicubic", antialias=False, align_corners=False, device=device, dtype=dtype)


def _geometric(old: int, new: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (new, old) of straight lines between old offsets at geometric distances from 0."""
    half = _distances(old // 2, reach=new // 2)
    at = torch.tensor([*(-distance for distance in reversed(half)), 0.0, *half], device=device, dtype=dtype)
    wanted = torch.arange(new, device=device).to(dtype) - new // 2
    # An offset beyond the last is given the last one's bias.
    wanted = wanted.clamp(min=at[0].item(), max=at[-1].item())
    right = torch.bucketize(wanted, at).clamp(1, max(1, old - 1)) if old > 1 else torch.zeros_like(wanted).long()
    left = (right - 1).clamp(min=0)
    width = at[right] - at[left]
    share = torch.where(width > 0, (wanted - at[left]) / width.clamp(min=1), torch.ones_like(width))
    weights = torch.zeros(new, old, device=device, dtype=dtype)
    weights.scatter_add_(1, left[:, None], (1 - share)[:, None])
    return weights.scatter_add_(1, right[:, None], share[:, None])


def _distances(count: int, *, reach: int) -> list[float]:
    """Return 1, 1 + q, 1 + q + q^2 ...: `count` of them, for the q in [1.01, 1.5] whose last is nearest `reach`."""
    low, high = 1.01, 1.5
    ratio = high
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return [(1 - ratio**n) / (1 - ratio) for n in range(1, count + 1)]
