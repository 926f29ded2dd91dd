"""A model that gives features instead of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitzoo.errors import InputError


class FeatureInfo:
    """What each returned feature is.

    Args:
        rows: for each feature: module, num_chs, reduction.
        out_indices: the blocks' numbers.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.rows, self.out_indices = list(rows), tuple(out_indices)

    def channels(self) -> list[int]:
        """Return the channels of each feature."""
        return [row["num_chs"] for row in self.rows]

    def reduction(self) -> list[int]:
        """Return how many pixels one step of each feature's grid is."""
        return [row["reduction"] for row in self.rows]

    def module_name(self) -> list[str]:
        """Return the module that each feature comes from."""
        return [row["module"] for row in self.rows]

    def get_dicts(self) -> list[dict[str, Any]]:
        """Return the rows themselves."""
        return [dict(row, index=index) for row, index in zip(self.rows, self.out_indices, strict=True)]


class FeatureExtractor(nn.Module):
    """Returns the features of chosen blocks; what they do not need is gone from the model.

    Args:
        model: any model with forward_intermediates, prune_intermediate_layers and feature_info.
        out_indices: the last n blocks, or these blocks.
        norm: apply the final norm to every feature.

    Raises:
        InputError: a block that does not exist, or blocks that merge tokens.
    """

    def __init__(self, model: nn.Module, out_indices: int | Sequence[int] = 3, *, norm: bool = False) -> None:
        super().__init__()
        if getattr(model, "merges_tokens", False):
            raise InputError(
                "features_only=True gives features on the patches' grid, and the model's blocks merge tokens; "
                "possible: a block that keeps every token, or forward_intermediates(x, output_fmt='NLC')"
            )
        info: Any = model.feature_info
        self.out_indices: list[int] = model.prune_intermediate_layers(out_indices, prune_norm=not norm)  # type: ignore[operator]
        self.feature_info = FeatureInfo([info[index] for index in self.out_indices], self.out_indices)
        self.model, self.norm = model, norm

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one (B, C, rows, columns) for each chosen block, from images (B, in_chans, H, W)."""
        return self.model.forward_intermediates(  # type: ignore[operator]
            x, self.out_indices, norm=self.norm, intermediates_only=True
        )
