"""TIPSv2: DINOv2's shape with one register token, on images that are not normalised."""

from __future__ import annotations

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import APACHE, BASE, LARGE, SO400M, SWIGLU_GIANT
from vitzoo.variants.table import Family, Tag

_IMAGES = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0)
TIPSV2 = Family(
    paper="TIPSv2: Advancing Vision-Language Pretraining with Enhanced Patch-Text Alignment",
    arxiv="2604.12012",
    preprocess=_IMAGES,
)

WEBLI = {"webli": Tag(preprocess=_IMAGES, license=APACHE)}

_V2 = {
    "img_size": 448,
    "patch_size": 14,
    "num_classes": 0,
    "reg_tokens": 1,
    "no_embed_class": True,
    "init_values": 1.0,
}

VARIANTS = (
    TIPSV2.row("vit_base_patch14_reg1_tipsv2", 86_314_752, WEBLI, **BASE, **_V2),
    TIPSV2.row("vit_large_patch14_reg1_tipsv2", 304_014_336, WEBLI, **LARGE, **_V2),
    TIPSV2.row("vit_so400m_patch14_reg1_tipsv2", 413_391_600, WEBLI, **SO400M, **_V2),
    TIPSV2.row("vit_giant_patch14_reg1_tipsv2", 1_135_949_312, WEBLI, **SWIGLU_GIANT, **_V2, mlp="swiglu_packed"),
)
ALIASES = {
    "tipsv2_base": "vit_base_patch14_reg1_tipsv2",
    "tipsv2_large": "vit_large_patch14_reg1_tipsv2",
    "tipsv2_so400m": "vit_so400m_patch14_reg1_tipsv2",
    "tipsv2_giant": "vit_giant_patch14_reg1_tipsv2",
}
