"""timm's search for better ViT baselines: shapes between the usual ones, registers, and mean pooling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import (
    APACHE,
    BASE_PLUS,
    BETWIXT,
    INCEPTION_90,
    INCEPTION_95,
    INCEPTION_100,
    INCEPTION_SQUASH,
    MEDIUM,
)
from vitzoo.variants.table import Family, Tag

SBB = Family(
    paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale; sizes by timm (Searching for "
    "Better ViT Baselines)",
    arxiv="2010.11929",
    preprocess=INCEPTION_95,
)
SBB_90 = replace(SBB, preprocess=INCEPTION_90)
PARALLEL = Family(
    paper="Scaling Vision Transformers to 22 Billion Parameters, section 2.1; sizes by timm (Searching for Better ViT "
    "Baselines)",
    arxiv="2302.05442",
    preprocess=INCEPTION_95,
)


def _tags(*names: str, preprocess: Preprocess = INCEPTION_95, classes: int = 1000) -> dict[str, Tag]:
    """Return tags of weights trained in timm, hence with the variant's own switches."""
    return {name: Tag(preprocess=preprocess, license=APACHE, changes={"num_classes": classes}) for name in names}


IN1K = _tags("sbb_in1k")
IN12K_1K = _tags("sbb_in12k_ft_in1k")
IN12K = _tags("sbb_in12k", classes=11821)
SBB2_1K = _tags("sbb2_e200_in12k_ft_in1k")
SBB2_1K_384 = _tags("sbb2_e200_in12k_ft_in1k", preprocess=INCEPTION_100)
SBB2 = _tags("sbb2_e200_in12k", classes=11821)
E250 = _tags("sbb_e250_in12k_ft_in1k") | _tags("sbb_e250_in12k", classes=11821)
E250_384 = _tags("sbb_e250_in12k_ft_in1k", preprocess=INCEPTION_100)
E200 = _tags("sbb_e200_in12k_ft_in1k", preprocess=INCEPTION_100)
E200_448 = _tags("sbb_e200_in12k_ft_in1k", preprocess=INCEPTION_SQUASH)
E200_12K = _tags("sbb_e200_in12k", preprocess=INCEPTION_100, classes=11821)

_GAP: dict[str, Any] = {"img_size": 256, "class_token": False, "pool": "avg"}
_REG1 = {**_GAP, "reg_tokens": 1, "no_embed_class": True, "init_values": 1e-5}
_REG4 = {**_REG1, "reg_tokens": 4}
_AT_384 = {**_REG4, "img_size": 384}
_WEE = {"embed_dim": 256, "depth": 14, "num_heads": 4, "mlp_ratio": 5.0}
_LITTLE = {"embed_dim": 320, "depth": 14, "num_heads": 5, "mlp_ratio": 5.6}
_DEEP = {**MEDIUM, "depth": 20}
# In the so150m the registers have positions too.
_SO150M = {**BASE_PLUS, "depth": 18, "mlp_ratio": 2304 / 896, "reg_tokens": 4, "class_token": False}
_SO150M_GAP = {**_SO150M, "pool": "avg", "fc_norm": False}
_SO150M2 = {"embed_dim": 832, "depth": 21, "num_heads": 13, "mlp_ratio": 2176 / 832, "qkv_bias": False}
_SO150M2_GAP = {**_SO150M2, "class_token": False, "pool": "avg", "reg_tokens": 1, "init_values": 1e-5}

VARIANTS = (
    SBB.row("vit_wee_patch16_reg1_gap_256", 13_422_568, IN1K, **_WEE, **_REG1),
    PARALLEL.row("vit_pwee_patch16_reg1_gap_256", 15_253_480, IN1K, **{**_WEE, "depth": 16}, **_REG1, block="parallel"),
    SBB.row("vit_little_patch16_reg1_gap_256", 22_515_048, IN12K_1K | IN12K, **_LITTLE, **_REG1),
    SBB.row("vit_little_patch16_reg4_gap_256", 22_516_008, IN1K, **_LITTLE, **_REG4),
    SBB.row("vit_medium_patch16_reg1_gap_256", 38_880_232, IN1K, **MEDIUM, **_REG1),
    SBB.row("vit_medium_patch16_reg4_gap_256", 38_881_768, IN12K_1K | IN1K | IN12K, **MEDIUM, **_REG4),
    SBB.row("vit_mediumd_patch16_reg4_gap_256", 64_109_032, SBB2_1K | IN12K_1K | SBB2 | IN12K, **_DEEP, **_REG4),
    SBB.row("vit_mediumd_patch16_reg4_gap_384", 64_272_872, SBB2_1K_384, **_DEEP, **_AT_384),
    SBB.row(
        "vit_betwixt_patch16_gap_256", 60_372_840, **BETWIXT, **_GAP, fc_norm=False, qkv_bias=False, init_values=1e-6
    ),
    SBB.row("vit_betwixt_patch16_reg1_gap_256", 60_396_520, IN1K, **BETWIXT, **_REG1),
    SBB.row(
        "vit_betwixt_patch16_reg4_gap_256", 60_398_440, SBB2_1K | IN12K_1K | IN1K | SBB2 | IN12K, **BETWIXT, **_REG4
    ),
    SBB.row("vit_betwixt_patch16_reg4_gap_384", 60_603_240, SBB2_1K_384, **BETWIXT, **_AT_384),
    SBB_90.row("vit_so150m_patch16_reg4_map_256", 141_481_064, **_SO150M, img_size=256, pool="map"),
    SBB.row("vit_so150m_patch16_reg4_gap_256", 134_131_560, E250, **_SO150M_GAP, img_size=256),
    SBB.row("vit_so150m_patch16_reg4_gap_384", 134_418_280, E250_384, **_SO150M_GAP, img_size=384),
    SBB.row("vit_so150m2_patch16_reg1_gap_256", 136_059_560, E200 | E200_12K, **_SO150M2_GAP, img_size=256),
    SBB.row("vit_so150m2_patch16_reg1_gap_384", 136_325_800, E200, **_SO150M2_GAP, img_size=384),
    SBB.row("vit_so150m2_patch16_reg1_gap_448", 136_498_856, E200_448, **_SO150M2_GAP, img_size=448),
)
ALIASES = {
    "vit_wee": "vit_wee_patch16_reg1_gap_256",
    "vit_little": "vit_little_patch16_reg4_gap_256",
    "vit_medium": "vit_medium_patch16_reg4_gap_256",
    "vit_mediumd": "vit_mediumd_patch16_reg4_gap_256",
    "vit_betwixt": "vit_betwixt_patch16_reg4_gap_256",
    "vit_so150m": "vit_so150m2_patch16_reg1_gap_256",
}
