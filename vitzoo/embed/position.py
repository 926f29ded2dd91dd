"""Position embeddings added to the tokens. They compute; the learned table is the model's own `pos_embed`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitzoo.embed.resample import check_mode, resample_table
from vitzoo.errors import ConfigError


class Positions(nn.Module):
    """What a position embedding does: state the table it needs, and give positions for a grid.

    Args:
        embed_dim: width C of a token.
    """

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim

    def table_shape(self, num_rows: int) -> tuple[int, int, int] | None:
        """Return the shape of the table the model holds for `num_rows` tokens, or None when it holds none."""
        raise NotImplementedError

    def resize(self, table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
        """Return the table (1, P + H * W, C) of another grid, its P first rows, those of prefix tokens, unchanged."""
        raise NotImplementedError

    def forward(
        self, tokens: Tensor, table: Tensor | None, table_grid: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what is to be added to the prefix tokens and to the patches.

        Args:
            tokens: (B, N, C), the patches: gives device and dtype.
            table: (1, P + n, C), the model's table: P rows for prefix tokens, then one a patch of `table_grid`.
            table_grid: (rows, columns) of the table.
            grid: (rows, columns) of the image at hand.

        Returns:
            (1, P, C) or None, and (1, N, C) or None.
        """
        raise NotImplementedError


class NoPositions(Positions):
    """No positions: the patches are a set, or rope alone says where they are."""

    def table_shape(self, num_rows: int) -> None:
        """Return None: there is no table."""
        return

    def forward(
        self, tokens: Tensor, table: Tensor | None, table_grid: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[None, None]:
        """Return nothing to add."""
        return None, None


class LearnedPositions(Positions):
    """A learned table, resampled to the grid of the image at hand.

    Args:
        embed_dim: width C of a token.
        interpolation: nearest, bilinear or bicubic.
        antialias: widen the kernel when shrinking; timm does, DINOv2 without registers and MAE do not.
        align_corners: as in torch's interpolate; torchvision does.

    Source: arXiv 2010.11929, section 3.1.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        interpolation: str = "bicubic",
        antialias: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__(embed_dim=embed_dim)
        check_mode(interpolation, antialias=antialias, align_corners=align_corners)
        self.interpolation, self.antialias, self.align_corners = interpolation, antialias, align_corners

    def table_shape(self, num_rows: int) -> tuple[int, int, int]:
        """Return (1, num_rows, C)."""
        return 1, num_rows, self.embed_dim

    def resize(self, table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
        """Return the table (1, P + H * W, C) of another grid."""
        prefix, patches = self._split(table, old_grid)
        return torch.cat([prefix, self._resample(patches, old_grid, new_grid)], dim=1)

    def forward(
        self, tokens: Tensor, table: Tensor | None, table_grid: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the prefix tokens' rows and the patches' rows, resampled when the grid is not the table's."""
        assert table is not None
        prefix, patches = self._split(table, table_grid)
        # While tracing there is no short cut for the table's own size: it would tie the graph to one size.
        if torch.compiler.is_compiling() or grid != table_grid:
            patches = self._resample(patches, table_grid, grid)
        return (prefix if prefix.shape[1] else None), patches

    def _split(self, table: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        num_prefix = table.shape[1] - grid[0] * grid[1]
        return table[:, :num_prefix], table[:, num_prefix:]

    def _resample(self, patches: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
        return resample_table(
            patches,
            old_grid,
            new_grid,
            mode=self.interpolation,
            antialias=self.antialias,
            align_corners=self.align_corners,
        )


class SinCos2dPositions(Positions):
    """Fixed sines and cosines of the patch's column (first half of the channels) and row (second half).

    On another grid than the model's own, the waves are evaluated where the resized patches' centres lie, which is
    what resampling a table approximates.

    Args:
        embed_dim: width C of a token, a multiple of 4.
        temperature: the longest wave is 2 pi times this, in patches.

    Raises:
        ConfigError: `embed_dim` is not a multiple of 4.

    Source: MAE, arXiv 2111.06377 (appendix A.1); MoCo v3, arXiv 2104.02057.
    """

    def __init__(self, *, embed_dim: int, temperature: float = 10000.0) -> None:
        super().__init__(embed_dim=embed_dim)
        if embed_dim % 4:
            raise ConfigError(f"pos_embed='sincos2d' needs embed_dim to be a multiple of 4; got {embed_dim}")
        self.temperature = temperature

    def table_shape(self, num_rows: int) -> None:
        """Return None: the waves are computed."""
        return

    def forward(
        self, tokens: Tensor, table: Tensor | None, table_grid: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[None, Tensor]:
        """Return nothing for the prefix tokens, and the waves (1, N, C) for the patches."""
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        bands = self.embed_dim // 4
        frequency = self.temperature ** -(torch.arange(bands, device=tokens.device).to(dtype) / bands)

        def waves(new: int, old: int) -> Tensor:
            center = (torch.arange(new, device=tokens.device).to(dtype) + 0.5) * (old / new) - 0.5
            angle = center[:, None] * frequency
            return torch.cat([angle.sin(), angle.cos()], dim=-1)  # (new, C / 2)

        rows, columns = waves(grid[0], table_grid[0]), waves(grid[1], table_grid[1])
        shape = (grid[0], grid[1], 2 * bands)
        table = torch.cat([columns[None].expand(shape), rows[:, None].expand(shape)], dim=-1)
        return None, table.reshape(1, -1, self.embed_dim).to(tokens.dtype)
