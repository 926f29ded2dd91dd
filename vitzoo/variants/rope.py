"""ViTs with rotary positions: RoPE-ViT's axial and mixed ones, with and without a table, and timm's with registers."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import (
    APACHE,
    BASE,
    BETWIXT,
    CLIP,
    IMAGENET_90,
    INCEPTION_95,
    LARGE,
    MEDIUM,
    MIT,
    SMALL,
)
from vitzoo.variants.table import Family, Tag

ROPE_VIT = Family(paper="Rotary Position Embedding for Vision Transformer", arxiv="2403.13298")
REGISTERS = Family(
    paper="EVA-02: A Visual Representation for Neon Genesis, section 2.1; sizes by timm",
    arxiv="2303.11331",
    license=MIT,
)

NAVER = {"naver_in1k": Tag(preprocess=IMAGENET_90, license=APACHE)}
IN1K = {"sbb_in1k": Tag(preprocess=INCEPTION_95, license=MIT)}
IN1K_CLIP = {"sbb_in1k": Tag(preprocess=Preprocess(**CLIP, crop_pct=0.95), license=MIT)}

_NO_TABLE: dict[str, Any] = {"init_values": 1e-5, "pos_embed": "none"}
_TABLE: dict[str, Any] = {"init_values": 1e-5, "no_embed_class": True}
_AXIAL = {"rope": ("axial", {"temperature": 100.0, "columns_first": True})}
_MIXED = {"rope": "mixed"}
_REG1: dict[str, Any] = {
    "img_size": 256,
    "class_token": False,
    "reg_tokens": 1,
    "pool": "avg",
    "pos_embed": "none",
    "rope": ("axial", {"reference_grid": (16, 16)}),
    "qkv_bias": "qv",
    "init_values": 1e-5,
}

VARIANTS = (
    ROPE_VIT.row("vit_small_patch16_rope_224", 21_984_232, NAVER, **SMALL, **_AXIAL, **_NO_TABLE),
    ROPE_VIT.row("vit_base_patch16_rope_224", 86_434_792, NAVER, **BASE, **_AXIAL, **_NO_TABLE),
    ROPE_VIT.row("vit_large_patch16_rope_224", 304_174_056, NAVER, **LARGE, **_AXIAL, **_NO_TABLE),
    ROPE_VIT.row("vit_small_patch16_rope_ape_224", 22_059_496, NAVER, **SMALL, **_AXIAL, **_TABLE),
    ROPE_VIT.row("vit_base_patch16_rope_ape_224", 86_585_320, NAVER, **BASE, **_AXIAL, **_TABLE),
    ROPE_VIT.row("vit_large_patch16_rope_ape_224", 304_374_760, NAVER, **LARGE, **_AXIAL, **_TABLE),
    ROPE_VIT.row("vit_small_patch16_rope_mixed_224", 21_988_840, NAVER, **SMALL, **_MIXED, **_NO_TABLE),
    ROPE_VIT.row("vit_base_patch16_rope_mixed_224", 86_444_008, NAVER, **BASE, **_MIXED, **_NO_TABLE),
    ROPE_VIT.row("vit_large_patch16_rope_mixed_224", 304_198_632, NAVER, **LARGE, **_MIXED, **_NO_TABLE),
    ROPE_VIT.row("vit_small_patch16_rope_mixed_ape_224", 22_064_104, NAVER, **SMALL, **_MIXED, **_TABLE),
    ROPE_VIT.row("vit_base_patch16_rope_mixed_ape_224", 86_594_536, NAVER, **BASE, **_MIXED, **_TABLE),
    ROPE_VIT.row("vit_large_patch16_rope_mixed_ape_224", 304_399_336, NAVER, **LARGE, **_MIXED, **_TABLE),
    REGISTERS.row("vit_medium_patch16_rope_reg1_gap_256", 38_743_016, IN1K, **MEDIUM, **_REG1),
    REGISTERS.row(
        "vit_mediumd_patch16_rope_reg1_gap_256",
        63_945_704,
        IN1K,
        **{**MEDIUM, "depth": 20},
        **{**_REG1, "qkv_bias": False},
    ),
    REGISTERS.row(
        "vit_betwixt_patch16_rope_reg4_gap_256", 60_226_920, IN1K_CLIP, **BETWIXT, **{**_REG1, "reg_tokens": 4}
    ),
    REGISTERS.row("vit_base_patch16_rope_reg1_gap_256", 86_425_576, IN1K, **BASE, **_REG1),
)
ALIASES = {
    "rope_vit_small": "vit_small_patch16_rope_224",
    "rope_vit_base": "vit_base_patch16_rope_224",
    "rope_vit_large": "vit_large_patch16_rope_224",
}
