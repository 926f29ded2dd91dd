"""The attention layer: projections around a call to the backend that the user chose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.attention.select import Attend
from vitzoo.embed.rope import Rotation, rotate
from vitzoo.errors import ConfigError


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: width C of a token.
        num_heads: heads H; they divide C.
        attend: runs attention on the backend that the user chose.
        qkv_bias: True: q, k and v have a bias; False: none; 'qv': q and v have one each.
        qkv_fused: one projection to q, k and v; False: three, where k has a bias only if `qkv_bias` is True.
        proj_bias: bias of the output projection.
        attn_drop: dropout of the weights while training.
        proj_drop: dropout after the output projection while training.
        q_norm: normalises the queries, head by head.
        k_norm: normalises the keys.
        norm: normalises the output before its projection.

    Raises:
        BackendUnsupported: the chosen backend can never run this head dim, or here at all.

    Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        attend: Attend,
        qkv_bias: bool | str = True,
        qkv_fused: bool = True,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"num_heads={num_heads} does not divide dim={dim}")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.attend = attend
        self.attend.require(head_dim=self.head_dim)
        self.qkv: nn.Linear | None = None
        if qkv_fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias is True)
            self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
            self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        else:
            self.q_proj = nn.Linear(dim, dim, bias=bool(qkv_bias))
            self.k_proj = nn.Linear(dim, dim, bias=qkv_bias is True)
            self.v_proj = nn.Linear(dim, dim, bias=bool(qkv_bias))
            self.q_bias = self.v_bias = None
        self.q_norm, self.k_norm, self.norm = q_norm, k_norm, norm
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.attn_drop, self.proj_drop = attn_drop, proj_drop

    def reset_parameters(self) -> None:
        """Zero the biases of q and v; the children start themselves."""
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        """Let every token attend to every token.

        Args:
            x: (B, N, C).
            bias: added to the scores; broadcastable to (B, H, N, N).
            key_mask: (B, N), True where a token may be looked at.
            rotation: this block's rope.

        Returns:
            (B, N, C).
        """
        if self.qkv is not None and rotation is None and self.q_norm is None and self.k_norm is None:
            drop = dropout_p(self, self.attn_drop)
            return self._finish(self.attend.packed(self._packed(x), bias=bias, key_mask=key_mask, dropout_p=drop))
        return self.mix(*self.project(x, rotation), bias=bias, key_mask=key_mask)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, key_mask: Tensor | None = None
    ) -> Tensor:
        """Attend with what `project` gave, and project the result: the second half of `forward`.

        Args:
            q: (B, N, H, D); k and v are its like.
            k: keys.
            v: values.
            bias: added to the scores; broadcastable to (B, H, N, N).
            key_mask: (B, N), True where a token may be looked at.

        Returns:
            (B, N, C).
        """
        return self._finish(
            self.attend(q, k, v, bias=bias, key_mask=key_mask, dropout_p=dropout_p(self, self.attn_drop))
        )

    def _finish(self, out: Tensor) -> Tensor:
        """Return (B, N, C) of what attention gave, (B, N, H, D)."""
        out = out.flatten(-2)
        out = self.proj(out if self.norm is None else self.norm(out))
        return F.dropout(out, self.proj_drop, self.training) if self.proj_drop else out

    def project(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of x (B, N, C), each (B, N, H, D), as attention sees them.

        A block that has a use for them calls `project` and then `mix`, which together are `forward`. They are views of
        one tensor where nothing has to be changed in them.
        """
        heads = (self.num_heads, self.head_dim)
        if self.qkv is None:
            q, k, v = (layer(x).unflatten(-1, heads) for layer in (self.q_proj, self.k_proj, self.v_proj))
        else:
            qkv = self._packed(x)
            if rotation is not None and self.q_norm is None and self.k_norm is None:
                q, k = rotate(qkv[:, :, :2], rotation).unbind(2)
                return q, k, qkv[:, :, 2]
            q, k, v = qkv.unbind(2)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def _packed(self, x: Tensor) -> Tensor:
        """Return q, k and v in one tensor, (B, N, 3, H, D)."""
        assert self.qkv is not None
        if self.q_bias is None:
            qkv = self.qkv(x)
        else:
            assert self.v_bias is not None
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
            qkv = F.linear(x, self.qkv.weight, bias)
        return qkv.unflatten(-1, (3, self.num_heads, self.head_dim))


def dropout_p(module: nn.Module, rate: float) -> float:
    """Return the rate while the module trains, else 0."""
    return rate if module.training else 0.0
