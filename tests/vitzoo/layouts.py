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


class _MaskedLinear(nn.Linear):
    """A projection to q, k and v whose bias is masked out for k."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)
        mask = torch.ones(3, dim)
        mask[1] = 0
        self.register_buffer("bias_mask", mask.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class _RopeAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = _MaskedLinear(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k = (_turned(part, angles) for part in (q, k))
        scores = (q @ k.transpose(-2, -1)) * (dim // self.heads) ** -0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, dim))


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    prefix, patches = x[:, :, : -len(angles)], x[:, :, -len(angles) :]
    first, second = patches.chunk(2, dim=-1)
    patches = patches * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    return torch.cat([prefix, patches], dim=2)


class _GatedInThree(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class _RopeBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)
        self.attn, self.mlp = _RopeAttention(dim, heads), mlp
        self.ls1, self.ls2 = _Scale(dim), _Scale(dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x), angles)
        return x + self.ls2.gamma * self.mlp(self.norm2(x))


class _Periods(nn.Module):
    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("periods", 100 ** (2 * torch.arange(head_dim // 4) / (head_dim // 2)))


class Dinov3(nn.Module):
    """DINOv3 (arXiv 2508.10104): rope on patches alone, positions in [-1, 1], registers, no bias of k.

    Args:
        heads: attention heads.
        gated: SwiGLU as three layers: gate, value, out.
    """

    def __init__(self, *, heads: int, gated: bool, registers: int = 4) -> None:
        super().__init__()
        dim = 32
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        self.patch_embed, self.norm = _Patches(dim), nn.LayerNorm(dim, eps=1e-5)
        self.rope_embed = _Periods(dim // heads)
        mlps = [_GatedInThree(dim, 48) if gated else _Mlp(dim, 64) for _ in range(2)]
        self.blocks = nn.ModuleList([_RopeBlock(dim, heads, mlp) for mlp in mlps])

    def forward(self, x: Tensor) -> Tensor:
        """Return the class token after the norm, (B, C)."""
        x = self.patch_embed.proj(x)
        rows, columns = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in x.shape[-2:])
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        angles = (2 * torch.pi * coordinates[:, :, None] / self.rope_embed.periods).flatten(1).tile(2)
        x = x.flatten(2).transpose(1, 2)
        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(x), -1, -1)
        x = torch.cat([prefix, x], dim=1)
        for block in self.blocks:
            x = block(x, angles)
        return self.norm(x)[:, 0]


class Jax(nn.Module):
    """ViT as flax keeps it: kernels are (in, out), those of attention (C, H, D), the patches' (h, w, in, out).

    Args:
        heads: attention heads.
        augreg: augreg's numbers of parts and place of positions, with a class token; else big_vision's.
        pooled: pool by attention (MAPHead), without a class token.
    """

    def __init__(self, *, heads: int, augreg: bool, pooled: bool = False) -> None:
        super().__init__()
        dim, width = 32, 32 // heads
        self.augreg, self.pooled = augreg, pooled
        shapes: dict[str, tuple[int, ...]] = {"embedding/kernel": (8, 8, 3, dim), "embedding/bias": (dim,)}
        self.mha, self.ln, self.mlp = (1, 2, 3) if augreg else (0, 1, 0)
        self.table = "Transformer/posembed_input/pos_embedding" if augreg else "pos_embedding"
        shapes |= {"cls": (1, 1, dim)} if augreg else {}
        shapes[self.table] = (1, 17 if augreg else 16, dim)
        places = [f"Transformer/encoderblock_{i}/" for i in range(2)]
        for place, mha, norms, mlp in [(place, self.mha, (0, self.ln), self.mlp) for place in places] + (
            [("MAPHead_0/", 0, (0,), 0)] if pooled else []
        ):
            for part in ("query", "key", "value"):
                name = f"{place}MultiHeadDotProductAttention_{mha}/{part}"
                shapes |= {f"{name}/kernel": (dim, heads, width), f"{name}/bias": (heads, width)}
            out = f"{place}MultiHeadDotProductAttention_{mha}/out"
            shapes |= {f"{out}/kernel": (heads, width, dim), f"{out}/bias": (dim,)}
            for norm in norms:
                shapes |= {f"{place}LayerNorm_{norm}/{kind}": (dim,) for kind in ("scale", "bias")}
            for dense, size in ((0, (dim, 48)), (1, (48, dim))):
                name = f"{place}MlpBlock_{mlp}/Dense_{dense}"
                shapes |= {f"{name}/kernel": size, f"{name}/bias": size[1:]}
        shapes |= {f"Transformer/encoder_norm/{kind}": (dim,) for kind in ("scale", "bias")}
        shapes |= {"head/kernel": (dim, 5), "head/bias": (5,)}
        if pooled:
            shapes["MAPHead_0/probe"] = (1, 1, dim)
        # A module's parameter may have no dot in its name, but may have slashes.
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def get(self, name: str) -> Tensor:
        """Return the parameter of that name."""
        return self._parameters[name]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, x.shape[-1:], self.get(f"{name}/scale"), self.get(f"{name}/bias"), eps=1e-6)

    def attend(self, name: str, q: Tensor, x: Tensor) -> Tensor:
        """Let the tokens q attend to x."""
        q, k, v = (
            torch.einsum("bnc,chd->bhnd", tokens, self.get(f"{name}/{part}/kernel"))
            + self.get(f"{name}/{part}/bias")[:, None]
            for tokens, part in ((q, "query"), (x, "key"), (x, "value"))
        )
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        out = torch.einsum("bhnd,hdc->bnc", weights @ v, self.get(f"{name}/out/kernel"))
        return out + self.get(f"{name}/out/bias")

    def feed(self, name: str, x: Tensor) -> Tensor:
        """Apply an MLP, with flax's default GELU."""
        x = F.gelu(x @ self.get(f"{name}/Dense_0/kernel") + self.get(f"{name}/Dense_0/bias"), approximate="tanh")
        return x @ self.get(f"{name}/Dense_1/kernel") + self.get(f"{name}/Dense_1/bias")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 5)."""
        kernel = self.get("embedding/kernel").permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, self.get("embedding/bias"), stride=8).flatten(2).transpose(1, 2)
        if self.augreg:
            x = torch.cat([self.get("cls").expand(len(x), -1, -1), x], dim=1)
        x = x + self.get(self.table)
        for i in range(2):
            place = f"Transformer/encoderblock_{i}/"
            y = self.norm(f"{place}LayerNorm_0", x)
            x = x + self.attend(f"{place}MultiHeadDotProductAttention_{self.mha}", y, y)
            x = x + self.feed(f"{place}MlpBlock_{self.mlp}", self.norm(f"{place}LayerNorm_{self.ln}", x))
        x = self.norm("Transformer/encoder_norm", x)
        if self.pooled:
            x = self.attend(
                "MAPHead_0/MultiHeadDotProductAttention_0", self.get("MAPHead_0/probe").expand(len(x), -1, -1), x
            )
            x = x[:, 0]
            x = x + self.feed("MAPHead_0/MlpBlock_0", self.norm("MAPHead_0/LayerNorm_0", x))
        else:
            x = x[:, 0] if self.augreg else x.mean(dim=1)
        return x @ self.get("head/kernel") + self.get("head/bias")
