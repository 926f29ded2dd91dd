"""Pools without attention: tokens (B, N, C) to one vector (B, C), or to two, or to the tokens themselves.

A pool is built as `pool(parts, **args)` and called with the number of prefix tokens in front of the patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitzoo.attention.select import Attend


@dataclass(frozen=True, kw_only=True)
class PoolParts:
    """What a pool is built from.

    Args:
        dim: width C of a token.
        num_heads: attention heads of the model's blocks.
        mlp_ratio: hidden width of an MLP over `dim`.
        include_prefix: pool over the prefix tokens too.
        attend: runs attention on the backend that the user chose.
        norm: makes a norm of a given width.
        mlp: makes an MLP: `mlp(dim, hidden_dim)`.
    """

    dim: int
    num_heads: int
    mlp_ratio: float
    include_prefix: bool
    attend: Attend
    norm: Callable[[int], nn.Module]
    mlp: Callable[..., nn.Module]


class Pool(nn.Module):
    """What every pool shares: which tokens it looks at."""

    def __init__(self, parts: PoolParts) -> None:
        super().__init__()
        self.include_prefix = parts.include_prefix

    def visible(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Return the patches (B, N - P, C), or all tokens when the model pools over the prefix too."""
        return tokens if self.include_prefix else tokens[:, num_prefix_tokens:]

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        raise NotImplementedError


class TokenPool(Pool):
    """The class token."""

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        return tokens[:, 0]


class AvgPool(Pool):
    """The mean over the patches."""

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        return self.visible(tokens, num_prefix_tokens).mean(dim=1)


class MaxPool(Pool):
    """The largest value of each channel over the patches."""

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        return self.visible(tokens, num_prefix_tokens).amax(dim=1)


class AvgMaxPool(Pool):
    """Half the mean plus half the maximum."""

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        visible = self.visible(tokens, num_prefix_tokens)
        return 0.5 * (visible.amax(dim=1) + visible.mean(dim=1))


class GemPool(Pool):
    """The generalised mean (mean of x^p)^(1/p) with a learned p; values below `eps` count as `eps`.

    Args:
        parts: what every pool is built from.
        p: the exponent's first value: 1 is the mean, large values approach the maximum.
        eps: smallest value.

    Source: arXiv 1711.02512, equation 3.
    """

    def __init__(self, parts: PoolParts, *, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(parts)
        self.first_p, self.eps = p, eps
        self.p = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set p to its first value."""
        nn.init.constant_(self.p, self.first_p)

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, C)."""
        visible = self.visible(tokens, num_prefix_tokens).clamp(min=self.eps)
        return visible.pow(self.p).mean(dim=1).pow(1 / self.p)


class DistilledPool(Pool):
    """The class and the distillation token, for two heads (DeiT).

    Source: arXiv 2012.12877.
    """

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Pool (B, N, C) to (B, 2, C)."""
        return tokens[:, :2]


class NoPool(Pool):
    """All tokens, as they are."""

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        """Return (B, N, C)."""
        return tokens
