"""Multi-head attention pooling: a learned query looks at the tokens (SigLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitzoo.errors import ConfigError
from vitzoo.pool.simple import Pool, PoolParts


class AttentionPool(Pool):
    """One learned query attends to the tokens; an MLP follows.

    Args:
        parts: what every pool is built from.
        num_heads: attention heads; the model's when None.
        mlp_ratio: hidden width of the MLP over C; the model's when None.

    Raises:
        ConfigError: the heads do not divide the width.

    Source: Set Transformer's pooling by multi-head attention, arXiv 1810.00825; SigLIP, arXiv 2303.15343.
    """

    def __init__(self, parts: PoolParts, *, num_heads: int | None = None, mlp_ratio: float | None = None) -> None:
        super().__init__(parts)
        dim = parts.dim
        self.num_heads = num_heads or parts.num_heads
        if dim % self.num_heads:
            raise ConfigError(f"pool='map' with num_heads={self.num_heads} does not divide embed_dim={dim}")
        self.head_dim = dim // self.num_heads
        self.attend = parts.attend
        self.attend.require(head_dim=self.head_dim)
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = parts.norm(dim)
        self.mlp = parts.mlp(dim, int(dim * (parts.mlp_ratio if mlp_ratio is None else mlp_ratio)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the query anew; the children start themselves."""
        nn.init.trunc_normal_(self.latent, std=self.latent.shape[-1] ** -0.5)

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        visible = self.visible(tokens, num_prefix_tokens)
        heads = (self.num_heads, self.head_dim)
        # One query for all images: projected once, then shared without a copy.
        q = self.q(self.latent).unflatten(-1, heads).expand(visible.shape[0], -1, -1, -1)  # (B, 1, H, D)
        k, v = self.kv(visible).unflatten(-1, (2, *heads)).unbind(2)  # (B, N, H, D) each
        pooled = self.proj(self.attend(q, k, v).flatten(-2))[:, 0]
        return pooled + self.mlp(self.norm(pooled))
