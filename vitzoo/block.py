"""Transformer blocks: attention and MLP with their norms, LayerScale and stochastic depth.

A block is built as `block(parts, **args)`: `BlockParts` holds the numbers and makes the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.attention.module import Attention, dropout_p
from vitzoo.attention.select import Attend
from vitzoo.embed.rope import Rotation, rotate
from vitzoo.errors import ConfigError


class LayerScale(nn.Module):
    """A learned factor for each channel.

    Args:
        dim: channels C.
        init_value: the factors' first value.

    Source: CaiT, arXiv 2103.17239.
    """

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.init_value = init_value
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every factor to its first value."""
        nn.init.constant_(self.gamma, self.init_value)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., C)."""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: while training, drop the branch of some images and scale the others up to keep the mean.

    Args:
        rate: share of images dropped.

    Source: arXiv 1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop whole rows of (B, ...)."""
        if not self.training:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)


@dataclass(frozen=True, kw_only=True)
class BlockParts:
    """What a block is built from.

    Args:
        dim: width C of a token.
        num_heads: attention heads H.
        mlp_hidden_dim: hidden width of the MLP.
        index: the block's place, from 0.
        qkv_bias: True, False or 'qv'.
        qkv_fused: one projection to q, k and v, or three.
        qk_norm: normalise queries and keys.
        proj_bias: bias of the attention's output projection and of the MLP.
        scale_attn_norm: normalise the attention's output before its projection.
        scale_mlp_norm: normalise the MLP's hidden layer.
        init_values: LayerScale's first value, or None.
        proj_drop: dropout after projections.
        attn_drop: dropout of attention weights.
        drop_path: stochastic depth of this block.
        attend: runs attention on the backend that the user chose.
        norm: makes a norm of a given width.
        mlp: makes an MLP: `mlp(dim, hidden_dim, bias=..., drop=..., norm=...)`.
        act_layer: makes the MLP's activation, when it is one function of one layer; None for gated MLPs.
        mlp_name: the MLP's name, for messages.
    """

    dim: int
    num_heads: int
    mlp_hidden_dim: int
    index: int
    qkv_bias: bool | str
    qkv_fused: bool
    qk_norm: bool
    proj_bias: bool
    scale_attn_norm: bool
    scale_mlp_norm: bool
    init_values: float | None
    proj_drop: float
    attn_drop: float
    drop_path: float
    attend: Attend
    norm: Callable[[int], nn.Module]
    mlp: Callable[..., nn.Module]
    act_layer: Callable[[], nn.Module] | None
    mlp_name: str

    def make_attention(self) -> Attention:
        """Return this block's attention layer."""
        return Attention(
            self.dim,
            self.num_heads,
            attend=self.attend,
            qkv_bias=self.qkv_bias,
            qkv_fused=self.qkv_fused,
            proj_bias=self.proj_bias,
            attn_drop=self.attn_drop,
            proj_drop=self.proj_drop,
            q_norm=self.norm(self.dim // self.num_heads) if self.qk_norm else None,
            k_norm=self.norm(self.dim // self.num_heads) if self.qk_norm else None,
            norm=self.norm(self.dim) if self.scale_attn_norm else None,
        )

    def make_mlp(self) -> nn.Module:
        """Return this block's MLP."""
        return self.mlp(
            self.dim,
            self.mlp_hidden_dim,
            bias=self.proj_bias,
            drop=self.proj_drop,
            norm=self.norm if self.scale_mlp_norm else None,
        )

    def make_layer_scale(self) -> nn.Module:
        """Return a LayerScale, or an identity when the model has none."""
        return nn.Identity() if self.init_values is None else LayerScale(self.dim, self.init_values)

    def make_drop_path(self) -> nn.Module:
        """Return a DropPath, or an identity when this block is never dropped."""
        return DropPath(self.drop_path) if self.drop_path > 0 else nn.Identity()


class PreNormBlock(nn.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)).

    Source: arXiv 2010.11929, equations 2 and 3.
    """

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.norm1 = parts.norm(parts.dim)
        self.attn = parts.make_attention()
        self.ls1 = parts.make_layer_scale()
        self.drop_path1 = parts.make_drop_path()
        self.norm2 = parts.norm(parts.dim)
        self.mlp = parts.make_mlp()
        self.ls2 = parts.make_layer_scale()
        self.drop_path2 = parts.make_drop_path()

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Map (B, N, C) to (B, N, C); the arguments are those of `Attention.forward`."""
        # Nested, so that no name keeps the attention's output alive while the MLP runs.
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), bias=bias, key_mask=key_mask, rotation=rotation)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class PostNormBlock(nn.Module):
    """norm(x + attn(x)), then norm(x + mlp(x)): the first Transformer, and torch's `nn.TransformerEncoderLayer`.

    Source: arXiv 1706.03762, section 3.1.
    """

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.attn = parts.make_attention()
        self.ls1 = parts.make_layer_scale()
        self.drop_path1 = parts.make_drop_path()
        self.norm1 = parts.norm(parts.dim)
        self.mlp = parts.make_mlp()
        self.ls2 = parts.make_layer_scale()
        self.drop_path2 = parts.make_drop_path()
        self.norm2 = parts.norm(parts.dim)

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Map (B, N, C) to (B, N, C); the arguments are those of `Attention.forward`."""
        x = self.norm1(x + self.drop_path1(self.ls1(self.attn(x, bias=bias, key_mask=key_mask, rotation=rotation))))
        return self.norm2(x + self.drop_path2(self.ls2(self.mlp(x))))


class ResPostNormBlock(nn.Module):
    """x + norm(attn(x)), then x + norm(mlp(x)); the norms start at `init_values` in place of a LayerScale.

    Source: Swin V2, arXiv 2111.09883, section 3.2.
    """

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.attn = parts.make_attention()
        self.norm1 = parts.norm(parts.dim)
        self.drop_path1 = parts.make_drop_path()
        self.mlp = parts.make_mlp()
        self.norm2 = parts.norm(parts.dim)
        self.drop_path2 = parts.make_drop_path()
        self.init_values = parts.init_values
        self.init_weights()

    def init_weights(self) -> None:
        """Set the norms' weights to `init_values`, when there is such a value."""
        if self.init_values is not None:
            for norm in (self.norm1, self.norm2):
                nn.init.constant_(norm.weight, self.init_values)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Map (B, N, C) to (B, N, C); the arguments are those of `Attention.forward`."""
        x = x + self.drop_path1(self.norm1(self.attn(x, bias=bias, key_mask=key_mask, rotation=rotation)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


class ParallelBlock(nn.Module):
    """x + attn(norm(x)) + mlp(norm(x)), with the first layers of both in one projection.

    Raises:
        ConfigError: the MLP is gated, the qkv bias is 'qv', qkv are not fused, or a sub-LN is asked for: the one
            projection has no place for it.

    Source: ViT-22B, arXiv 2302.05442, section 2.1.
    """

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        if parts.act_layer is None:
            raise ConfigError(
                f"block='parallel' fuses the MLP's first layer with qkv and needs an MLP of one activation "
                f"(gelu, gelu_tanh, quick_gelu, relu); got mlp={parts.mlp_name!r}"
            )
        if parts.qkv_bias == "qv" or not parts.qkv_fused or parts.scale_attn_norm or parts.scale_mlp_norm:
            raise ConfigError(
                "block='parallel' has one projection for qkv and the MLP: it takes qkv_bias True or False, "
                "qkv_fused=True, scale_attn_norm=False and scale_mlp_norm=False"
            )
        dim, hidden = parts.dim, parts.mlp_hidden_dim
        self.num_heads, self.head_dim = parts.num_heads, dim // parts.num_heads
        self.attend = parts.attend
        self.attend.require(head_dim=self.head_dim)
        self.widths = [hidden, dim, dim, dim]
        self.attn_drop, self.proj_drop = parts.attn_drop, parts.proj_drop

        self.in_norm = parts.norm(dim)
        self.in_proj = nn.Linear(dim, sum(self.widths), bias=bool(parts.qkv_bias))
        # Without a qkv bias the MLP still has its own.
        self.mlp_bias = None if parts.qkv_bias else nn.Parameter(torch.zeros(hidden))
        self.q_norm = parts.norm(self.head_dim) if parts.qk_norm else None
        self.k_norm = parts.norm(self.head_dim) if parts.qk_norm else None
        self.mlp_act = parts.act_layer()
        self.attn_out_proj = nn.Linear(dim, dim, bias=parts.proj_bias)
        self.mlp_out_proj = nn.Linear(hidden, dim, bias=parts.proj_bias)
        self.ls = parts.make_layer_scale()
        self.drop_path = parts.make_drop_path()

    def reset_parameters(self) -> None:
        """Zero the MLP's own bias; the children start themselves."""
        if self.mlp_bias is not None:
            nn.init.zeros_(self.mlp_bias)

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Map (B, N, C) to (B, N, C); the arguments are those of `Attention.forward`."""
        hidden, q, k, v = self.in_proj(self.in_norm(x)).split(self.widths, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)) for part in (q, k, v))  # (B, N, H, D)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        attended = self.attend(q, k, v, bias=bias, key_mask=key_mask, dropout_p=dropout_p(self, self.attn_drop))
        hidden = self.mlp_act(hidden if self.mlp_bias is None else hidden + self.mlp_bias)
        hidden = F.dropout(hidden, self.proj_drop, self.training)
        branch = self.attn_out_proj(attended.flatten(-2)) + self.mlp_out_proj(hidden)
        return x + self.drop_path(self.ls(branch))
