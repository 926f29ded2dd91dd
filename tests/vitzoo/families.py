"""One small model of each family: every switch that the variants use, at a size that tests can afford."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import vitzoo

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 5}

CLIP_NORM = ("layernorm", {"eps": 1e-5})
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {},
    "deit_distilled": {"dist_token": True, "pool": "distilled"},
    "deit3": {"no_embed_class": True, "init_values": 0.1},
    "dinov2_reg": {
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 0.1,
        "mlp": "swiglu_packed",
        "mask_token": True,
    },
    "dinov3": {
        "pos_embed": "none",
        "rope": "dinov3",
        "reg_tokens": 4,
        "qkv_bias": "qv",
        "init_values": 0.1,
        "mlp": ("swiglu", {"align_to": 8}),
        "norm": CLIP_NORM,
        "pool": "avg",
    },
    "clip": {"pre_norm": True, "norm": CLIP_NORM, "mlp": "quick_gelu"},
    "siglip": {"class_token": False, "pool": "map", "mlp": "gelu_tanh"},
    "rope_axial": {"pos_embed": "none", "rope": ("axial", {"temperature": 100.0, "columns_first": True})},
    "rope_mixed": {"no_embed_class": True, "rope": "mixed"},
    "sbb_parallel": {"block": "parallel", "class_token": False, "reg_tokens": 1, "pool": "avg", "init_values": 0.1},
    "eva02": {
        "qkv_bias": "qv",
        "qkv_fused": False,
        "rope": ("axial", {"reference_grid": (16, 16)}),
        "mlp": "swiglu",
        "scale_attn_norm": True,
        "scale_mlp_norm": True,
        "pool": "avg",
    },
    "flexivit": {"no_embed_class": True, "pos_embed": ("learned", {"interpolation": "bilinear", "antialias": False})},
    "cifar": {"block": "post_norm", "mlp": "relu"},
    "avg": {"class_token": False, "pos_embed": "none", "pool": "avg"},
    "mae": {"pos_embed": "sincos2d", "patch_embed": "linear"},
    "hybrid": {"patch_embed": "conv_stem", "norm": "rmsnorm", "qk_norm": True, "qkv_bias": False, "pool": "gem"},
    "overlapping": {
        "patch_embed": ("conv", {"stride": 4}),
        "block": "res_post_norm",
        "init_values": 0.1,
        "pool": "avgmax",
    },
}


def small(family: str, **changes: Any) -> nn.Module:
    """Return a small model of a family in eval mode, every parameter random, so that no zero hides a mistake."""
    torch.manual_seed(0)
    model = vitzoo.create("vit_tiny", **{**SMALL, **FAMILIES[family], **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model
