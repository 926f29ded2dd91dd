"""timm's models beside vitzoo's: the same architecture, and weights in which no value is special."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitzoo.variants import FAMILIES
from vitzoo.variants.table import Variant

ROWS: dict[str, Variant] = {
    variant.name: variant for family in FAMILIES for variant in import_module(f"vitzoo.variants.{family}").VARIANTS
}
TWINS = [name for name in ROWS if timm.is_model(name)]


def timm_on_meta(name: str, **settings: Any) -> nn.Module:
    """Return timm's model without memory, and where timm lets us, without drawing weights that nobody sees."""
    if timm.model_entrypoint(name).__module__ != "timm.models.eva":
        settings["weight_init"] = "skip"
    with torch.device("meta"):
        return timm.create_model(name, **settings)


def timm_model(name: str, weights: dict[str, Tensor], **settings: Any) -> nn.Module:
    """Return timm's model in float64 with these weights, without drawing others first."""
    model = timm_on_meta(name, dtype=torch.float64, **settings).to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    model.load_state_dict(weights, strict=True)
    return model.eval()


def random_weights(name: str, **settings: Any) -> dict[str, Tensor]:
    """Return float32 weights for timm's model: none is 0 or 1, and activations stay near 1 at any depth.

    What the first norm sees is small, so that its eps shows in the result.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, like in timm_on_meta(name, **settings).state_dict().items():
        value = torch.empty(like.shape).normal_(generator=generator)
        if key.startswith("patch_embed.proj."):
            value *= 0.05 / like[0].numel() ** 0.5
        elif key in ("cls_token", "dist_token", "reg_token", "pos_embed"):
            value *= 0.05
        elif like.ndim == 1:
            value = 0.1 * value + (1 if key.endswith(("weight", "gamma", "gamma_1", "gamma_2")) else 0)
        elif key != "rope.freqs":
            value /= like.shape[-1] ** 0.5
        weights[key] = value
    return weights


def error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
