"""From the one mask that a model's forward takes to the bias and the key mask that backends take."""

from __future__ import annotations

import torch
from torch import Tensor

from vitzoo.errors import InputError


def split_mask(mask: Tensor, tokens: Tensor, *, num_heads: int) -> tuple[Tensor | None, Tensor | None]:
    """Return (bias, key_mask), one of which is None.

    Args:
        mask: (N, N), (B, N, N) or (B or 1, H or 1, N or 1, N); boolean, True where attention may look, or floating
            point, added to the scores.
        tokens: (B, N, C).
        num_heads: heads H.

    Returns:
        A boolean mask of keys alone, (B, 1, 1, N), as key_mask (B, N); any other as a bias of 0 and -inf.

    Raises:
        InputError: another shape or dtype.
    """
    batch, count = tokens.shape[:2]
    full = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    fits = (
        full.ndim == 4
        and full.shape[0] in (1, batch)
        and full.shape[1] in (1, num_heads)
        and full.shape[2] in (1, count)
        and full.shape[3] == count
    )
    if not fits:
        raise InputError(
            f"attn_mask has shape {tuple(mask.shape)}; for {batch} images of {count} tokens (with the prefix tokens) "
            f"and {num_heads} heads it is ({count}, {count}), ({batch}, {count}, {count}) or "
            f"(1 or {batch}, 1 or {num_heads}, 1 or {count}, {count})"
        )
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            raise InputError(f"attn_mask is boolean (True is visible) or floating point (added); got {mask.dtype}")
        return full.to(tokens.dtype), None
    if full.shape[1] == 1 and full.shape[2] == 1:
        return None, full[:, 0, 0].expand(batch, -1)
    return torch.zeros_like(full, dtype=tokens.dtype).masked_fill(~full, float("-inf")), None
