"""LingBot-Vision: DINOv3's architecture, pooled by the class token, with biases of q and v up to the large one."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import APACHE, BASE, EPS5, IMAGENET, LARGE, SMALL, SWIGLU_GIANT
from vitzoo.variants.table import Family, Tag

_IMAGES = Preprocess(**IMAGENET, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
LINGBOT = Family(
    paper="Vision Pretraining for Dense Spatial Perception",
    arxiv="2607.05247",
    preprocess=_IMAGES,
    source="belfner/{name}.{tag}",
)

ROBBYANT = {"robbyant": Tag(preprocess=_IMAGES, license=APACHE)}

_BOT: dict[str, Any] = {
    "img_size": 512,
    "num_classes": 0,
    "reg_tokens": 4,
    "pos_embed": "none",
    "rope": "dinov3",
    "norm": EPS5,
    "qkv_bias": "qv",
    "init_values": 1e-5,
}
_GIANT = {**SWIGLU_GIANT, **_BOT, "qkv_bias": False, "mlp": "swiglu"}

VARIANTS = (
    LINGBOT.row("vit_small_patch16_lingbot", 21_596_160, ROBBYANT, **SMALL, **_BOT),
    LINGBOT.row("vit_base_patch16_lingbot", 85_659_648, ROBBYANT, **BASE, **_BOT),
    LINGBOT.row("vit_large_patch16_lingbot", 303_128_576, ROBBYANT, **LARGE, **_BOT),
    LINGBOT.row("vit_giant_patch16_lingbot", 1_134_473_216, ROBBYANT, **_GIANT),
)
ALIASES = {
    "lingbot_small": "vit_small_patch16_lingbot",
    "lingbot_base": "vit_base_patch16_lingbot",
    "lingbot_large": "vit_large_patch16_lingbot",
    "lingbot_giant": "vit_giant_patch16_lingbot",
}
