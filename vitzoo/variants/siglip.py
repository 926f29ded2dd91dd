"""Image towers of SigLIP, SigLIP 2 and PaliGemma: no class token, pooled by attention, or averaged ('gap')."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import APACHE, BASE, INCEPTION_90, INCEPTION_100, INCEPTION_SQUASH, JAX, LARGE, SO400M
from vitzoo.variants.table import Family, Tag

SIGLIP = Family(paper="Sigmoid Loss for Language Image Pre-Training", arxiv="2303.15343")
SIGLIP2 = Family(
    paper="SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and "
    "Dense Features",
    arxiv="2502.14786",
)
PALIGEMMA = Family(paper="PaliGemma: A versatile 3B VLM for transfer", arxiv="2407.07726")


def _tags(*names: str, preprocess: Preprocess = INCEPTION_90) -> dict[str, Tag]:
    """Return tags of weights trained in JAX, hence with its switches."""
    return {name: Tag(preprocess=preprocess, license=APACHE, changes=JAX) for name in names}


V2 = _tags("v2_webli")
V1_V2 = _tags("v2_webli", "webli")
V1_I18N_V2 = _tags("v2_webli", "webli", "webli_i18n")
I18N_V2 = _tags("v2_webli", "webli_i18n")
V1_100 = _tags("webli", preprocess=INCEPTION_100)
PALI = ("pali_mix", "pali_pt")
PALI2 = ("pali2_3b_pt", "pali2_10b_pt")
# Fine-tuned in timm, with its exact GELU.
FT_1K = {"webli_ft_in1k": Tag(preprocess=INCEPTION_SQUASH, license=APACHE, changes={"num_classes": 1000})}

_MAP: dict[str, Any] = {"class_token": False, "pool": "map", "num_classes": 0}
_GAP: dict[str, Any] = {"class_token": False, "pool": "avg", "fc_norm": False, "num_classes": 0}
# timm gives the tanh approximation to some of the architectures themselves.
_TANH = {"mlp": "gelu_tanh"}
_OPT = {"embed_dim": 1536, "depth": 40, "num_heads": 16, **_TANH}
_SO14, _SO16 = {**SO400M, "patch_size": 14}, {**SO400M, **_TANH}
# 384 pixels are 27 patches of 14 and 6 pixels that no patch sees.
_SO14_384 = {**_SO14, "img_size": 384, "patch_embed": ("conv", {"drop_rest": True})}

VARIANTS = (
    SIGLIP2.row("vit_base_patch32_siglip_256", 94_552_320, V2, **BASE, **_MAP, **_TANH, patch_size=32, img_size=256),
    SIGLIP.row("vit_base_patch16_siglip_224", 92_884_224, V1_V2, **BASE, **_MAP),
    SIGLIP.row("vit_base_patch16_siglip_256", 92_930_304, V1_I18N_V2, **BASE, **_MAP, img_size=256),
    SIGLIP.row("vit_base_patch16_siglip_384", 93_176_064, V1_V2, **BASE, **_MAP, img_size=384),
    SIGLIP.row("vit_base_patch16_siglip_512", 93_520_128, V1_V2, **BASE, **_MAP, img_size=512),
    SIGLIP.row("vit_large_patch16_siglip_256", 315_956_224, V1_V2, **LARGE, **_MAP, img_size=256),
    SIGLIP.row("vit_large_patch16_siglip_384", 316_283_904, V1_V2, **LARGE, **_MAP, img_size=384),
    SIGLIP2.row("vit_large_patch16_siglip_512", 316_742_656, V2, **LARGE, **_MAP, **_TANH, img_size=512),
    SIGLIP.row("vit_so400m_patch14_siglip_224", 427_680_704, V1_V2, **_SO14, **_MAP),
    SIGLIP.row("vit_so400m_patch14_siglip_378", 428_225_600, V1_V2 | FT_1K, **_SO14, **_MAP, img_size=378),
    SIGLIP.row("vit_so400m_patch14_siglip_384", 428_225_600, _tags("webli"), **_SO14_384, **_MAP),
    SIGLIP2.row("vit_so400m_patch16_siglip_256", 427_888_064, I18N_V2, **_SO16, **_MAP, img_size=256),
    SIGLIP2.row("vit_so400m_patch16_siglip_384", 428_256_704, V2, **_SO16, **_MAP, img_size=384),
    SIGLIP2.row("vit_so400m_patch16_siglip_512", 428_772_800, V2, **_SO16, **_MAP, img_size=512),
    SIGLIP2.row("vit_giantopt_patch16_siglip_256", 1_163_168_256, V2, **_OPT, **_MAP, img_size=256),
    SIGLIP2.row("vit_giantopt_patch16_siglip_384", 1_163_659_776, V2, **_OPT, **_MAP, img_size=384),
    SIGLIP2.row(
        "vit_base_patch32_siglip_gap_256", 87_465_216, V2, **BASE, **_GAP, **_TANH, patch_size=32, img_size=256
    ),
    SIGLIP.row("vit_base_patch16_siglip_gap_224", 85_797_120, V1_V2, **BASE, **_GAP),
    SIGLIP.row("vit_base_patch16_siglip_gap_256", 85_843_200, V1_I18N_V2, **BASE, **_GAP, img_size=256),
    SIGLIP.row("vit_base_patch16_siglip_gap_384", 86_088_960, V1_V2, **BASE, **_GAP, img_size=384),
    SIGLIP.row("vit_base_patch16_siglip_gap_512", 86_433_024, V1_V2, **BASE, **_GAP, img_size=512),
    SIGLIP.row("vit_large_patch16_siglip_gap_256", 303_361_024, V1_V2, **LARGE, **_GAP, img_size=256),
    SIGLIP.row("vit_large_patch16_siglip_gap_384", 303_688_704, V1_V2, **LARGE, **_GAP, img_size=384),
    SIGLIP2.row("vit_large_patch16_siglip_gap_512", 304_147_456, V2, **LARGE, **_GAP, **_TANH, img_size=512),
    SIGLIP.row("vit_so400m_patch14_siglip_gap_224", 412_442_352, V1_V2 | _tags(*PALI, *PALI2), **_SO14, **_GAP),
    SIGLIP.row("vit_so400m_patch14_siglip_gap_378", 412_987_248, V2 | V1_100 | FT_1K, **_SO14, **_GAP, img_size=378),
    SIGLIP.row("vit_so400m_patch14_siglip_gap_384", 412_987_248, V1_100, **_SO14_384, **_GAP),
    PALIGEMMA.row(
        "vit_so400m_patch14_siglip_gap_448",
        413_327_088,
        _tags(
            *PALI,
            "pali_refcoco_seg",
            "pali_ocrvqa",
            *PALI2,
            "pali2_3b_docci",
            "pali2_10b_docci",
            preprocess=INCEPTION_100,
        ),
        **_SO14,
        **_GAP,
        img_size=448,
    ),
    PALIGEMMA.row(
        "vit_so400m_patch14_siglip_gap_896",
        416_866_032,
        _tags("pali_pt", "pali_refcoco_seg", "pali_ocrvqa", *PALI2, preprocess=INCEPTION_100),
        **_SO14,
        **_GAP,
        img_size=896,
    ),
    SIGLIP2.row("vit_so400m_patch16_siglip_gap_256", 412_649_712, I18N_V2, **_SO16, **_GAP, img_size=256),
    SIGLIP2.row("vit_so400m_patch16_siglip_gap_384", 413_018_352, V2, **_SO16, **_GAP, img_size=384),
    SIGLIP2.row("vit_so400m_patch16_siglip_gap_512", 413_534_448, V2, **_SO16, **_GAP, img_size=512),
    SIGLIP2.row("vit_giantopt_patch16_siglip_gap_256", 1_134_838_272, V2, **_OPT, **_GAP, img_size=256),
    SIGLIP2.row("vit_giantopt_patch16_siglip_gap_384", 1_135_329_792, V2, **_OPT, **_GAP, img_size=384),
)
ALIASES = {
    "siglip_base": "vit_base_patch16_siglip_224",
    "siglip_large": "vit_large_patch16_siglip_256",
    "siglip_so400m": "vit_so400m_patch14_siglip_384",
}
