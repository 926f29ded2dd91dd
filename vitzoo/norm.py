"""Norms. Each is built as `norm(width, **args)` and normalises the last dimension."""

from __future__ import annotations

from torch import nn


def _check_eps(eps: float) -> float:
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not eps >= 0:
        raise ValueError(f"eps is {eps!r}; a norm takes a number, 0 or more")
    return eps


class LayerNorm(nn.LayerNorm):
    """Layer norm with a weight and a bias.

    Args:
        width: size of the last dimension.
        eps: added to the variance; 1e-6 in timm, DINOv2 and MAE, 1e-5 in CLIP and DINOv3, 1e-12 in Hugging Face's ViT.

    Source: arXiv 1607.06450.
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__(width, eps=_check_eps(eps))


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm with a weight.

    Args:
        width: size of the last dimension.
        eps: added to the mean square.

    Source: arXiv 1910.07467.
    """

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__(width, eps=_check_eps(eps))
