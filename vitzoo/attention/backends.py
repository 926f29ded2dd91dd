"""The adapter that gives torch's attention the signature of a backend; the others have it already."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Run `torch.nn.functional.scaled_dot_product_attention`. Arguments as in `Attend.__call__`."""
    mask = bias
    if key_mask is not None:
        keys = key_mask[:, None, None, :]
        mask = keys if bias is None else bias.masked_fill(~keys, float("-inf"))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, dropout_p=dropout_p, scale=scale
    )
    return out.transpose(1, 2).contiguous()
