"""The head: what is made of the tokens of the last stage."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Pool, dropout and classifier.

    Args:
        dim: channels C of the last stage.
        num_classes: outputs; 0 for features.
        pool: avg, max, avgmax or none.
        drop_rate: dropout before the classifier while training.
    """

    def __init__(self, dim: int, num_classes: int, *, pool: str, drop_rate: float) -> None:
        super().__init__()
        self.pool, self.drop_rate = pool, drop_rate
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map tokens (B, R, K, C) to logits (B, num_classes), or (B, R, K, num_classes) with the pool 'none'."""
        if self.pool in ("avg", "avgmax"):
            mean = x.mean(dim=(1, 2))
            x = mean if self.pool == "avg" else 0.5 * (mean + x.amax(dim=(1, 2)))
        elif self.pool == "max":
            x = x.amax(dim=(1, 2))
        x = F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x
        return x if pre_logits else self.fc(x)
