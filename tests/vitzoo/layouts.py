"""The models whose layouts no installable package has, written out at a size for tests from their papers and names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (dim // self.heads) ** -0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, dim))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp: nn.Module, *, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, heads), mlp
        if scaled:
            self.ls1, self.ls2 = _Scale(dim), _Scale(dim)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.ls1.gamma, self.ls2.gamma) if hasattr(self, "ls1") else (1.0, 1.0)
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class _Patches(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 8, 8)


class Dinov2(nn.Module):
    """DINOv2 (arXiv 2304.07193) with registers (2309.16588): the class token has a position, registers have none.

    Args:
        registers: number of register tokens.
        gated: SwiGLU, packed, the gate first.
        chunks: put the blocks into chunks; places that belong to another chunk are empty.
    """

    def __init__(self, *, registers: int, gated: bool, chunks: bool = False) -> None:
        super().__init__()
        dim = 32
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, dim))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        self.patch_embed, self.norm = _Patches(dim), nn.LayerNorm(dim, eps=1e-6)
        blocks = [_Block(dim, 4, _SwiGLU(dim, 48) if gated else _Mlp(dim, 64), scaled=True) for _ in range(2)]
        if chunks:
            self.blocks = nn.ModuleList([nn.ModuleList([blocks[0]]), nn.ModuleList([nn.Identity(), blocks[1]])])
        else:
            self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return all tokens after the norm, (B, 1 + R + N, C)."""
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        if hasattr(self, "register_tokens"):
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for entry in self.blocks:
            for block in entry if isinstance(entry, nn.ModuleList) else [entry]:
                x = block(x)
        return self.norm(x)


class Mae(nn.Module):
    """The encoder of MAE (arXiv 2111.06377) without masking, beside the decoder's tensors.

    Args:
        average: fine-tuned: the mean of the patches, then a norm, then a head.
        decoder: hold the decoder.
    """

    def __init__(self, *, average: bool, decoder: bool) -> None:
        super().__init__()
        dim = 32
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, 17, dim))
        self.patch_embed = _Patches(dim)
        self.blocks = nn.ModuleList([_Block(dim, 4, _Mlp(dim, 64), scaled=False) for _ in range(2)])
        if decoder:
            self.mask_token, self.decoder_embed = nn.Parameter(torch.zeros(1, 1, 16)), nn.Linear(dim, 16)
            self.decoder_blocks = nn.ModuleList([_Block(16, 2, _Mlp(16, 16), scaled=False)])
            self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 16))
        if average:
            self.fc_norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 5)
        else:
            self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 5), or the class token (B, C)."""
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x[:, 1:].mean(dim=1))) if hasattr(self, "head") else self.norm(x)[:, 0]
