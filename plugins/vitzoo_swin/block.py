"""Blocks, the merging of patches between stages, and the stages themselves. Tokens are (B, R, K, C) throughout."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitzoo.attention.select import Attend
from vitzoo.block import DropPath
from vitzoo.mlp import GeluMlp, GeluTanhMlp, Mlp, QuickGeluMlp, ReluMlp
from vitzoo.norm import LayerNorm
from vitzoo_swin.attention import CosineAttention, TableAttention, WindowAttention
from vitzoo_swin.config import SwinConfig

EPS = 1e-5
MLPS: dict[str, type[Mlp]] = {
    "gelu": GeluMlp,
    "gelu_tanh": GeluTanhMlp,
    "quick_gelu": QuickGeluMlp,
    "relu": ReluMlp,
}


class SwinBlock(nn.Module):
    """Attention in windows and an MLP: x + f(norm(x)) in version 1, x + norm(f(x)) in version 2.

    Args:
        config: the settings.
        stage: its stage, from 0.
        shifted: whether its windows are shifted.
        drop_path: stochastic depth of this block.
        attend: runs attention on the backend that the user chose.

    Source: arXiv 2103.14030, equation 3; arXiv 2111.09883, section 3.2.
    """

    def __init__(self, config: SwinConfig, stage: int, *, shifted: bool, drop_path: float, attend: Attend) -> None:
        super().__init__()
        dim, heads = config.widths[stage], config.num_heads[stage]
        self.norm_first, self.shifted = config.version == 1, shifted
        self.norm1 = LayerNorm(dim, eps=EPS)
        self.attn = _attention(config, stage, dim, heads, shifted=shifted, attend=attend)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = LayerNorm(dim, eps=EPS)
        self.mlp = MLPS[config.act_layer](dim, int(dim * config.mlp_ratio), drop=config.proj_drop_rate)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Let a block of version 2 start as an identity: its norms' weights are 0."""
        if not self.norm_first:
            for norm in (self.norm1, self.norm2):
                nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, R, K, C) to (B, R, K, C)."""
        if self.norm_first:
            x = x + self.drop_path1(self.attn(self.norm1(x)))
            return x + self.drop_path2(self.mlp(self.norm2(x)))
        x = x + self.drop_path1(self.norm1(self.attn(x)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width; the norm stands first in version 1, last in version 2.

    Args:
        dim: channels C of the tokens.
        norm_first: normalise the four neighbours, not the merged token.

    Source: arXiv 2103.14030, section 3.1.
    """

    def __init__(self, dim: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm = LayerNorm(4 * dim if norm_first else 2 * dim, eps=EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, R, K, C) to (B, R / 2, K / 2, 2 C); an odd side is padded by one."""
        below, right = x.shape[1] % 2, x.shape[2] % 2
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        # Of the four, the row changes faster than the column: the order that all published weights have.
        x = rearrange(x, "b (r y) (k x) c -> b r k (x y c)", y=2, x=2)
        return self.reduction(self.norm(x)) if self.norm_first else self.norm(self.reduction(x))


class Stage(nn.Module):
    """The blocks of one resolution, after the merging that leads to it.

    Args:
        config: the settings.
        stage: its number, from 0; the first has no merging.
        attend: runs attention on the backend that the user chose.
    """

    blocks: Any

    def __init__(self, config: SwinConfig, stage: int, *, attend: Attend) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = (
            PatchMerging(config.widths[stage - 1], norm_first=config.version == 1) if stage else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, shifted=index % 2 == 1, drop_path=rate, attend=attend)
            for index, rate in enumerate(config.drop_path_rates(stage))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, R, K, C) of the stage before to this one's."""
        x = self.downsample(x)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


def _attention(
    config: SwinConfig, stage: int, dim: int, heads: int, *, shifted: bool, attend: Attend
) -> WindowAttention:
    shared = {
        "qkv_bias": config.qkv_bias,
        "attend": attend,
        "window": config.window_of(stage),
        "shift": config.shift_of(stage) if shifted else (0, 0),
        "pad_first": config.pad_first,
        "attn_drop": config.attn_drop_rate,
        "proj_drop": config.proj_drop_rate,
    }
    if config.version == 1:
        return TableAttention(dim, heads, **shared)  # type: ignore[arg-type]
    return CosineAttention(dim, heads, pretrained_window=config.pretrained_window_sizes[stage], **shared)  # type: ignore[arg-type]
