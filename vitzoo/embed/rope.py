"""Rotary position embeddings: queries and keys of patch tokens are rotated by angles that grow with their position.

A rope module gives the angles' sines and cosines for a grid; `rotate` applies them inside attention. Prefix tokens
have angle 0, so they stay as they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.errors import ConfigError


class Rotation(NamedTuple):
    """The angles of one block.

    Args:
        sin: (N, 1 or H, D), or (B, N, 1 or H, D) when each image kept other patches.
        cos: like `sin`.
        by_half: whether channel i pairs with i + D / 2; else 2i pairs with 2i + 1.
    """

    sin: Tensor
    cos: Tensor
    by_half: bool


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each pair of channels by its token's angle.

    Args:
        x: (B, N, H, D), or (B, N, 2, H, D) for queries and keys together.
        rotation: the angles, in float32 at least.

    Returns:
        Like x; computed in the angles' dtype.
    """
    sin, cos, by_half = rotation
    if x.ndim == 5:
        sin, cos = sin.unsqueeze(-3), cos.unsqueeze(-3)
    if by_half:
        first, second = x.chunk(2, dim=-1)
        partner = torch.cat([-second, first], dim=-1)
    else:
        partner = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * cos + partner * sin).to(x.dtype)


class Rope(nn.Module):
    """What every rope shares.

    Args:
        head_dim: width D of a head, a multiple of 4: half the pairs turn with the row, half with the column.
        num_heads: heads H of a block.
        depth: number of blocks.

    Raises:
        ConfigError: `head_dim` is not a multiple of 4.
    """

    by_half = False

    def __init__(self, *, head_dim: int, num_heads: int, depth: int) -> None:
        super().__init__()
        if head_dim % 4:
            raise ConfigError(f"a rope needs head_dim to be a multiple of 4; got head_dim={head_dim}")
        self.head_dim, self.num_heads, self.depth = head_dim, num_heads, depth

    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the angles (1 or depth, N, 1 or H, D / 2) of a grid (rows, columns), in radians."""
        raise NotImplementedError

    def keep(self, depth: int) -> None:
        """Forget the blocks after the first `depth`."""
        self.depth = depth

    def forward(self, tokens: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> list[Rotation]:
        """Return each block's rotation for tokens (B, P + N, C) of an image with this grid."""
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        angles = self.angles(grid, device=tokens.device, dtype=dtype)
        angles = F.pad(angles, (0, 0, 0, 0, num_prefix_tokens, 0))
        sins, coses = self._paired(angles.sin()), self._paired(angles.cos())
        blocks = [Rotation(sin, cos, self.by_half) for sin, cos in zip(sins, coses, strict=True)]
        return blocks if len(blocks) > 1 else blocks * self.depth

    def _paired(self, values: Tensor) -> Tensor:
        """Return (..., D) from one value a pair (..., D / 2)."""
        if self.by_half:
            return torch.cat([values, values], dim=-1)
        return torch.stack([values, values], dim=-1).flatten(-2)


class AxialRope(Rope):
    """Fixed frequencies, one half of the pairs for each axis, positions counted in patches.

    Args:
        head_dim: width D of a head.
        num_heads: heads of a block.
        depth: number of blocks.
        temperature: the slowest pair turns about 1 / temperature radians a patch.
        reference_grid: (rows, columns) that every image's grid is stretched to (EVA-02); None: no stretching.
        offset: position of the first patch.
        columns_first: the first half of the pairs turns with the column.

    Source: EVA-02, arXiv 2303.11331; RoPE-ViT (axial), arXiv 2403.13298.
    """

    def __init__(
        self,
        *,
        head_dim: int,
        num_heads: int,
        depth: int,
        temperature: float = 10000.0,
        reference_grid: tuple[int, int] | None = None,
        offset: float = 0.0,
        columns_first: bool = False,
    ) -> None:
        super().__init__(head_dim=head_dim, num_heads=num_heads, depth=depth)
        self.temperature, self.reference_grid = temperature, reference_grid
        self.offset, self.columns_first = offset, columns_first

    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the angles (1, N, 1, D / 2) of a grid (rows, columns), in radians."""
        bands = self.head_dim // 4
        frequency = self.temperature ** -(torch.arange(bands, device=device).to(dtype) / bands)
        axes = []
        for axis in (0, 1):
            position = torch.arange(grid[axis], device=device).to(dtype) + self.offset
            if self.reference_grid is not None:
                position = position * (self.reference_grid[axis] / grid[axis])
            axes.append(position[:, None] * frequency)
        return _over_grid(axes[0], axes[1], columns_first=self.columns_first)


class Dinov3Rope(Rope):
    """Positions are patch centres in [-1, 1], whatever the grid; the pairs' periods run from 1 to the temperature.

    Args:
        head_dim: width D of a head.
        num_heads: heads of a block.
        depth: number of blocks.
        temperature: the base of the periods.

    Source: DINOv3, arXiv 2508.10104.
    """

    by_half = True

    def __init__(self, *, head_dim: int, num_heads: int, depth: int, temperature: float = 100.0) -> None:
        super().__init__(head_dim=head_dim, num_heads=num_heads, depth=depth)
        self.temperature = temperature

    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the angles (1, N, 1, D / 2) of a grid (rows, columns), in radians."""
        bands = self.head_dim // 4
        period = self.temperature ** (torch.arange(bands, device=device).to(dtype) / bands)

        def turns(size: int) -> Tensor:
            center = (torch.arange(size, device=device).to(dtype) + 0.5) / size * 2 - 1
            return 2 * math.pi * center[:, None] / period

        return _over_grid(turns(grid[0]), turns(grid[1]), columns_first=False)


class MixedRope(Rope):
    """Learned frequencies for both axes together, for every head of every block.

    Args:
        head_dim: width D of a head.
        num_heads: heads of a block.
        depth: number of blocks.
        temperature: base of the frequencies' first values.
        columns_first: the first of the two learned frequencies belongs to the column.

    Source: RoPE-ViT (mixed), arXiv 2403.13298.
    """

    freqs: nn.Parameter

    def __init__(
        self, *, head_dim: int, num_heads: int, depth: int, temperature: float = 10.0, columns_first: bool = True
    ) -> None:
        super().__init__(head_dim=head_dim, num_heads=num_heads, depth=depth)
        self.temperature, self.columns_first = temperature, columns_first
        self.freqs = nn.Parameter(torch.empty(2, depth, num_heads, head_dim // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from axial frequencies, turned by a random angle in every head of every block."""
        with torch.no_grad():
            turn = torch.rand(self.depth, self.num_heads, 1, device=self.freqs.device) * 2 * math.pi
            exponent = torch.arange(0, self.head_dim, 4, device=self.freqs.device) / self.head_dim
            magnitude = self.temperature**-exponent
            directions = [turn, turn + math.pi / 2]
            x = torch.cat([magnitude * angle.cos() for angle in directions], dim=-1)
            y = torch.cat([magnitude * angle.sin() for angle in directions], dim=-1)
            self.freqs.copy_(torch.stack([x, y]))

    def keep(self, depth: int) -> None:
        """Forget the blocks after the first `depth`, and their frequencies."""
        super().keep(depth)
        self.freqs = nn.Parameter(self.freqs.detach()[:, :depth].clone(), requires_grad=self.freqs.requires_grad)

    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the angles (depth, N, H, D / 2) of a grid (rows, columns), in radians."""
        rows = torch.arange(grid[0], device=device).to(dtype)[:, None, None, None]
        columns = torch.arange(grid[1], device=device).to(dtype)[:, None, None]
        freqs = self.freqs.to(dtype)[:, :, None, None]  # (2, depth, 1, 1, H, D / 2)
        first, second = (columns, rows) if self.columns_first else (rows, columns)
        return (first * freqs[0] + second * freqs[1]).flatten(1, 2)  # (depth, rows * columns, H, D / 2)


def no_rope(*, head_dim: int, num_heads: int, depth: int) -> None:
    """Return None, for models without a rope."""


def _over_grid(by_row: Tensor, by_column: Tensor, *, columns_first: bool) -> Tensor:
    """Return (1, rows * columns, 1, 2 * bands) from angles (rows, bands) and (columns, bands)."""
    shape = (by_row.shape[0], by_column.shape[0], by_row.shape[1])
    spread = [by_row[:, None].expand(shape), by_column[None].expand(shape)]
    return torch.cat(spread[::-1] if columns_first else spread, dim=-1).reshape(1, -1, 1, 2 * shape[2])
