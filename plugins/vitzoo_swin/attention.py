"""Attention inside windows: version 1 with a table of biases, version 2 with cosines and biases from a small MLP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitzoo.attention.select import Attend
from vitzoo_swin.config import Pair
from vitzoo_swin.windows import bias_of, cut, join, mask_of, regions

# Version 2, arXiv 2111.09883, section 3.3: biases are at most 16, and logits are scaled by at most 100.
LARGEST_BIAS, LARGEST_SCALE, FIRST_SCALE = 16.0, 100.0, 10.0
CPB_WIDTH = 512


class WindowAttention(nn.Module):
    """Self-attention inside windows of a grid, shifted or not. Subclasses say what q, k, v and the bias are.

    Every call of the backend has a bias of shape (1, H, N, N), which it broadcasts over the windows: those that are
    masked alike go together.

    Args:
        dim: channels C.
        num_heads: heads H; they divide C.
        attend: runs attention on the backend that the user chose.
        window: (h, w) in tokens.
        shift: how far the windows are shifted, (down, right).
        pad_first: pad before the shift, see `SwinConfig`.
        attn_drop: dropout of the weights while training.
        proj_drop: dropout after the output projection while training.

    Raises:
        BackendUnsupported: the chosen backend can never run this head dim.
    """

    scale: float | None = None
    qkv: nn.Linear

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        attend: Attend,
        window: Pair,
        shift: Pair,
        pad_first: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.attend = attend
        self.attend.require(head_dim=self.head_dim)
        self.window, self.shift, self.pad_first = window, shift, pad_first
        self.attn_drop, self.proj_drop = attn_drop, proj_drop

    def bias(self) -> Tensor:
        """Return the bias of one window, (1, H, N, N)."""
        raise NotImplementedError

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each (B, R, K, H, D), from (B, R, K, C)."""
        raise NotImplementedError

    def output(self, x: Tensor) -> Tensor:
        """Project (B, R, K, C) to (B, R, K, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Let every token attend to those of its window.

        Args:
            x: (B, R, K, C).

        Returns:
            (B, R, K, C).
        """
        rows, columns = x.shape[1:3]
        if self.pad_first:
            x = self._padded(x)
        grid = (x.shape[1], x.shape[2])
        shift = self._shift_of(grid)
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
        if not self.pad_first:
            x = self._padded(x)
        x = self._attended(x, shift)
        if not self.pad_first:
            x = x[:, :rows, :columns]
        x = torch.roll(x, shift, (1, 2)) if any(shift) else x
        x = self.output(x[:, :rows, :columns])
        return F.dropout(x, self.proj_drop, self.training) if self.proj_drop else x

    def _attended(self, x: Tensor, shift: Pair) -> Tensor:
        """Return attention's output (B, R, K, C) over a grid of whole windows that was shifted."""
        q, k, v = self.project(x)
        bias = self.bias().to(q.dtype)
        dropout_p = self.attn_drop if self.training else 0.0
        strips = []
        for line in regions((x.shape[1], x.shape[2]), self.window, shift):
            parts = []
            for region in line:
                (top, bottom), (left, right) = region.rows, region.columns
                windows = (cut(part[:, top:bottom, left:right], self.window) for part in (q, k, v))
                mask = mask_of(region, self.window, shift, bias)
                masked = bias if mask is None else bias + mask
                out = self.attend(*windows, bias=masked, scale=self.scale, dropout_p=dropout_p)
                parts.append(join(out, self.window, (bottom - top, right - left)))
            strips.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
        return strips[0] if len(strips) == 1 else torch.cat(strips, dim=1)

    def _shift_of(self, grid: Pair) -> Pair:
        if not self.pad_first:
            return self.shift
        down, right = (
            0 if side <= window else step for side, window, step in zip(grid, self.window, self.shift, strict=True)
        )
        return down, right

    def _padded(self, x: Tensor) -> Tensor:
        below, right = -x.shape[1] % self.window[0], -x.shape[2] % self.window[1]
        return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


class TableAttention(WindowAttention):
    """Version 1: a learned bias for every offset and head.

    Args:
        dim: channels C.
        num_heads: heads H.
        qkv_bias: whether q, k and v have a bias.
        **shared: as for `WindowAttention`.

    Source: arXiv 2103.14030, equation 4.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, **shared: object) -> None:
        super().__init__(dim, num_heads, **shared)  # type: ignore[arg-type]
        height, width = self.window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * height - 1) * (2 * width - 1), num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table; the children start themselves."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self) -> Tensor:
        """Return the bias of one window, (1, H, N, N)."""
        return bias_of(self.relative_position_bias_table, self.window)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each (B, R, K, H, D), from (B, R, K, C)."""
        q, k, v = rearrange(self.qkv(x), "b r k (three heads d) -> three b r k heads d", three=3, d=self.head_dim)
        return q, k, v

    def output(self, x: Tensor) -> Tensor:
        """Project (B, R, K, C) to (B, R, K, C)."""
        return self.proj(x)


class CosineAttention(WindowAttention):
    """Version 2: cosines of q and k with a learned scale a head, and a bias that an MLP computes from offsets.

    Args:
        dim: channels C.
        num_heads: heads H.
        qkv_bias: whether q and v have a bias; k has none.
        pretrained_window: (h, w) by which offsets are measured; 0: the window itself.
        **shared: as for `WindowAttention`.

    Source: arXiv 2111.09883, sections 3.2 and 3.3.
    """

    scale = 1.0

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, pretrained_window: Pair, **shared: object) -> None:
        super().__init__(dim, num_heads, **shared)  # type: ignore[arg-type]
        self.pretrained_window = pretrained_window
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, CPB_WIDTH), nn.ReLU(), nn.Linear(CPB_WIDTH, num_heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.empty(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.empty(dim)) if qkv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to 10 and the biases to 0; the children start themselves."""
        nn.init.constant_(self.logit_scale, math.log(FIRST_SCALE))
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def bias(self) -> Tensor:
        """Return the bias of one window, (1, H, N, N)."""
        offsets = log_offsets(self.window, self.pretrained_window, next(self.cpb_mlp.parameters()))
        return bias_of(LARGEST_BIAS * torch.sigmoid(self.cpb_mlp(offsets)), self.window)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each (B, R, K, H, D), from (B, R, K, C); q has the scale in it."""
        packed = None
        if self.q_bias is not None and self.v_bias is not None:
            packed = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, packed)
        q, k, v = rearrange(qkv, "b r k (three heads d) -> three b r k heads d", three=3, d=self.head_dim)
        scale = self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp().squeeze(-1)  # (H, 1)
        # In at least float32: padding has keys of length 0, and the eps that makes them 0 is 0 itself in float16.
        precise = torch.promote_types(q.dtype, torch.float32)
        q, k = (F.normalize(part.to(precise), dim=-1) for part in (q, k))
        return (q * scale).to(v.dtype), k.to(v.dtype), v

    def output(self, x: Tensor) -> Tensor:
        """Project (B, R, K, C) to (B, R, K, C)."""
        return self.proj(x)


def measure_of(window: Pair, pretrained: Pair) -> Pair:
    """Return the sides by which offsets in a window are measured: the pretrained ones, its own where these are 0."""
    return pretrained[0] or window[0], pretrained[1] or window[1]


def log_offsets(window: Pair, pretrained: Pair, like: Tensor) -> Tensor:
    """Return every offset in a window on a logarithmic scale, ((2h - 1) * (2w - 1), 2), in the dtype of `like`.

    Source: arXiv 2111.09883, equation 4, with offsets of up to 8 of which the logarithm's base makes 1.
    """
    sides = []
    for side, reference in zip(window, measure_of(window, pretrained), strict=True):
        # In float32 whatever the model's dtype: what the published weights were trained on.
        offsets = torch.arange(1 - side, side, device=like.device, dtype=torch.float32)
        offsets = offsets / max(reference - 1, 1) * 8
        sides.append(offsets.sign() * torch.log2(offsets.abs() + 1.0) / 3.0)
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([rows, columns], dim=-1).flatten(0, 1).to(like.dtype)
