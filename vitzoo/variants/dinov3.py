"""DINOv3, and the models of EUPE that share its architecture.

The names that end in 'qkvb' keep the biases of q and v, which are zero in most of the published weights; the others
leave them out.
"""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import BASE, EPS5, HUGE, IMAGENET_100, LARGE, SMALL, TINY
from vitzoo.variants.table import Family, Tag

LICENSE = "dinov3-license"
DINOV3 = Family(paper="DINOv3", arxiv="2508.10104", license=LICENSE, preprocess=IMAGENET_100)

# The authors' code returns the class token, where timm's architecture averages the patches.
_CLASS = {"pool": "token", "fc_norm": False}
_SATELLITE = Preprocess(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143), crop_pct=1.0)
WEB = {"lvd1689m": Tag(preprocess=IMAGENET_100, license=LICENSE, changes=_CLASS)}
SATELLITE = {"sat493m": Tag(preprocess=_SATELLITE, license=LICENSE, changes=_CLASS)}
EUPE = {"eupe_lvd1689m": Tag(preprocess=IMAGENET_100, license="fair-noncommercial-research-license", changes=_CLASS)}

_3: dict[str, Any] = {
    "img_size": 256,
    "num_classes": 0,
    "reg_tokens": 4,
    "pos_embed": "none",
    "rope": "dinov3",
    "norm": EPS5,
    "pool": "avg",
    "fc_norm": False,
    "qkv_bias": False,
    "init_values": 1e-5,
}
_QKVB = {**_3, "qkv_bias": "qv"}
_SMALL_PLUS = {**SMALL, "mlp": "swiglu"}
_LARGE_PLUS = {**LARGE, "mlp": "swiglu"}
_HUGE_PLUS = {**HUGE, "num_heads": 20, "mlp": "swiglu"}
_7B = {"embed_dim": 4096, "depth": 40, "num_heads": 32, "mlp_ratio": 2.0, "mlp": "swiglu"}

VARIANTS = (
    DINOV3.row("vit_tiny_patch16_dinov3_qkvb", 5_489_664, EUPE, **TINY, **_QKVB),
    DINOV3.row("vit_small_patch16_dinov3", 21_586_944, WEB, **SMALL, **_3),
    DINOV3.row("vit_small_patch16_dinov3_qkvb", 21_596_160, WEB | EUPE, **SMALL, **_QKVB),
    DINOV3.row("vit_small_plus_patch16_dinov3", 28_683_264, WEB, **_SMALL_PLUS, **_3),
    DINOV3.row("vit_small_plus_patch16_dinov3_qkvb", 28_692_480, WEB, **_SMALL_PLUS, **_QKVB),
    DINOV3.row("vit_base_patch16_dinov3", 85_641_216, WEB, **BASE, **_3),
    DINOV3.row("vit_base_patch16_dinov3_qkvb", 85_659_648, WEB | EUPE, **BASE, **_QKVB),
    DINOV3.row("vit_large_patch16_dinov3", 303_079_424, WEB | SATELLITE, **LARGE, **_3),
    DINOV3.row("vit_large_patch16_dinov3_qkvb", 303_128_576, WEB | SATELLITE, **LARGE, **_QKVB),
    DINOV3.row("vit_large_plus_patch16_dinov3", 403_841_024, **_LARGE_PLUS, **_3),
    DINOV3.row("vit_large_plus_patch16_dinov3_qkvb", 403_890_176, **_LARGE_PLUS, **_QKVB),
    DINOV3.row("vit_huge_plus_patch16_dinov3", 840_509_440, WEB, **_HUGE_PLUS, **_3),
    DINOV3.row("vit_huge_plus_patch16_dinov3_qkvb", 840_591_360, WEB, **_HUGE_PLUS, **_QKVB),
    DINOV3.row("vit_7b_patch16_dinov3", 6_716_030_976, WEB | SATELLITE, **_7B, **_3),
)
ALIASES = {
    "dinov3_small": "vit_small_patch16_dinov3",
    "dinov3_small_plus": "vit_small_plus_patch16_dinov3",
    "dinov3_base": "vit_base_patch16_dinov3",
    "dinov3_large": "vit_large_patch16_dinov3",
    "dinov3_large_plus": "vit_large_plus_patch16_dinov3",
    "dinov3_huge_plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_7b": "vit_7b_patch16_dinov3",
}
