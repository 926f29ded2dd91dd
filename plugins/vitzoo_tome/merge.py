"""Bipartite soft matching: which tokens are alike, and their means.

Source: ToMe, arXiv 2210.09461, section 3.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which of the N tokens stay, and which are merged into which.

    The patches are dealt out in turn to A (the first, third, ...) and to B.

    Args:
        prefix: number of tokens in front of the patches; they stay as they are.
        kept: (B, |A| - r), the tokens of A that stay, in their order.
        merged: (B, r), the tokens of A that are merged.
        into: (B, r), for each of them its partner's number in B.
    """

    prefix: int
    kept: Tensor
    merged: Tensor
    into: Tensor

    def merge(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Put the mean of all that they are made of in the place of merged tokens.

        Args:
            x: (B, N, C).
            sizes: (B, N), of how many tokens of the image each is made; None: of one.

        Returns:
            (B, N - r, C): the prefix, what is left of A, B; and their sizes (B, N - r).
        """
        if sizes is None:
            # In 16 bits not every whole number of tokens could be written.
            sizes = x.new_ones(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
        tokens, weights = x.to(sizes.dtype), sizes[..., None]
        a, b = slice(self.prefix, None, 2), slice(self.prefix + 1, None, 2)
        sums, added = self._sums(
            _pick(tokens * weights, a, self.merged), _pick(weights, a, self.merged), x[:, b].shape[1]
        )
        total = weights[:, b] + added
        # What nothing is merged into keeps its value to the last bit.
        means = torch.where(added > 0, (weights[:, b] * tokens[:, b] + sums) / total, tokens[:, b])
        tokens = torch.cat([tokens[:, : self.prefix], _pick(tokens, a, self.kept), means], dim=1)
        weights = torch.cat([weights[:, : self.prefix], _pick(weights, a, self.kept), total], dim=1)
        return tokens.to(x.dtype), weights[..., 0]

    def _sums(self, weighted: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Sum up what is merged into each of B's tokens: (B, r, C) and (B, r, 1) to (B, |B|, C) and (B, |B|, 1)."""
        # A product and not scatter_add, which on a GPU adds in any order, so that two runs would differ.
        into = F.one_hot(self.into, count).to(weights.dtype)  # (B, r, |B|)
        added = (into * weights).sum(dim=1)[..., None]
        with _without_autocast(weighted.device.type):
            return into.transpose(1, 2) @ weighted, added


@torch.no_grad()
def match(features: Tensor, r: int, prefix: int) -> Matching | None:
    """Find the r tokens of A that are most like one of B, each with the one that it is most like.

    Which tokens are alike is a choice and has no gradient; their means have one.

    Args:
        features: (B, N, D), compared by the cosine of their angle.
        r: how many tokens to merge; at most half of the patches are.
        prefix: number of tokens in front of the patches, which are never merged.

    Returns:
        The matching; None when there is nothing to merge.
    """
    r = min(r, (features.shape[1] - prefix) // 2)
    if r == 0:
        return None
    directions = F.normalize(features[:, prefix:], dim=-1)
    likeness = directions[:, ::2] @ directions[:, 1::2].transpose(1, 2)  # (B, |A|, |B|)
    best, partner = likeness.max(dim=-1)
    # Stable, so that equal tokens are taken in their order wherever it runs.
    order = best.sort(dim=-1, descending=True, stable=True).indices
    merged, kept = order[:, :r], order[:, r:].sort(dim=-1).values
    return Matching(prefix=prefix, kept=kept, merged=merged, into=partner.gather(1, merged))


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Let products keep their dtype: autocast would round the tokens themselves."""
    # torch.compile of torch 2.11 cannot trace the second question.
    has_autocast = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if has_autocast else nullcontext()


def _pick(x: Tensor, part: slice, index: Tensor) -> Tensor:
    """Return the tokens (B, n, C) with the numbers (B, n) of a part of x (B, N, C)."""
    return x[:, part].gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
