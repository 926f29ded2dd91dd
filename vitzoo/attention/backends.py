"""vitzoo's own attention backends, as adapters to one signature over (B, N, H, D)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

import vitzoo_kernels


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the definition: readable PyTorch that holds all N_q x N_k weights. Arguments as in `Attend.__call__`."""
    return vitzoo_kernels.attention_reference(
        q, k, v, bias=bias, key_mask=key_mask, scale=scale, dropout_p=dropout_p, return_lse=return_lse
    )


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


def triton(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, return_lse: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Run vitzoo's Triton kernel. Arguments as in `Attend.__call__`."""
    return vitzoo_kernels.attention(q, k, v, scale=scale, return_lse=return_lse)
