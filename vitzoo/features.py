"""A model that gives features instead of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitzoo.errors import InputError

# What a model says of itself and its images; its name is not among it, for what is saved is the model.
DESCRIBES = ("config", "preprocess", "labels", "provenance", "load_report", "pretrained_cfg", "default_cfg")


class FeatureInfo:
    """What each feature is, as timm says it.

    Args:
        rows: for each block of the whole model, chosen or not: module, num_chs, reduction.
        out_indices: the chosen blocks' numbers.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.rows = [dict(row, index=index) for index, row in enumerate(rows)]
        self.out_indices = tuple(out_indices)

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of each feature; of the blocks `idx` where they are given, of one alone as a number."""
        return self._of("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return how many pixels one step of each feature's grid is; `idx` as for `channels`."""
        return self._of("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the module that each feature comes from; `idx` as for `channels`."""
        return self._of("module", idx)

    def get_dicts(self) -> list[dict[str, Any]]:
        """Return the rows of the chosen blocks."""
        return [self.rows[index] for index in self.out_indices]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def _of(self, key: str, idx: int | Sequence[int] | None) -> Any:
        if isinstance(idx, int):
            return self.rows[idx][key]
        return [self.rows[index][key] for index in (self.out_indices if idx is None else idx)]


class FeatureExtractor(nn.Module):
    """Returns the features of chosen blocks; what they do not need is gone from the model.

    What the model says of itself, such as its `config`, `preprocess`, `load_report` and `provenance`, is read here too.
    To save it, save `.model`.

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
        self.feature_info = FeatureInfo(info, self.out_indices)
        self.model, self.norm = model, norm

    def __getattr__(self, name: str) -> Any:
        # Asked only for what the module has not; the model is absent while it is being copied or unpickled.
        if name in DESCRIBES and "model" in self.__dict__.get("_modules", {}):
            return getattr(self.model, name)
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one (B, C, rows, columns) for each chosen block, from images (B, in_chans, H, W)."""
        return self.model.forward_intermediates(  # type: ignore[operator]
            x, self.out_indices, norm=self.norm, intermediates_only=True
        )
