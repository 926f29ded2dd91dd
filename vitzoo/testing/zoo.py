"""The model under test: how it is built small, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import vitzoo
from vitzoo.registry import Entry
from vitzoo.testing.modules import Subject
from vitzoo.testing.tiny import randomise
from vitzoo.variants.table import Variant

CLASSES = 5
BATCH = 2


@dataclass(frozen=True)
class Model(Subject):
    """A registered model, as the checks see it.

    Args:
        entry: its entry in the registry.
    """

    entry: Entry

    @property
    def small(self) -> Mapping[str, Any] | None:
        """Settings of a small one: the registration's `test_config`, or what follows from a Variant; else None."""
        told = self.entry.meta.get("test_config")
        if told is not None or not isinstance(self.entry.target, Variant):
            return None if told is None else dict(told)
        config = self.entry.target.config
        return {
            "depth": 2,
            "embed_dim": 16 * config.num_heads,
            "img_size": (4 * config.patch_size[0], 6 * config.patch_size[1]),
            "mask_token": False,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built with: small when that is told, at its own size when not."""
        return {"num_classes": CLASSES, **(self.small or {})}

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) of the images that it is made for."""
        own = self.entry.target.config.img_size if isinstance(self.entry.target, Variant) else 224
        size = self.settings.get("img_size", own)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def num_classes(self) -> int:
        """Outputs of its head."""
        return int(self.settings["num_classes"])

    def module(self, *, seed: int = 0, **changes: Any) -> Any:
        """Return a small one, in eval mode, every parameter random."""
        torch.manual_seed(seed)
        return randomise(vitzoo.create(self.entry.name, **{**self.settings, **changes})).eval()

    def inputs(self) -> Tensor:
        """Return random images of its own size."""
        return self.images(*self.img_size)

    def images(self, height: int, width: int) -> Tensor:
        """Return random images (B, C, H, W)."""
        return torch.randn(BATCH, self.settings.get("in_chans", 3), height, width)

    def call(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the logits."""
        return module(x)


def grid_of(info: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """Return the grid (rows, columns) of a level of features: one step is `reduction` pixels."""
    return height // info["reduction"], width // info["reduction"]
