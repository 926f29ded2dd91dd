"""ViT: the plain sizes from tiny to gigantic, with a class token or with mean pooling, and timm's experiments."""

from __future__ import annotations

from dataclasses import replace

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import (
    APACHE,
    BASE,
    BASE_PLUS,
    CC_BY_NC,
    CLIP_100,
    GIANT,
    GIGANTIC,
    HUGE,
    IMAGENET_90,
    IMAGENET_100,
    INCEPTION_90,
    INCEPTION_95,
    INCEPTION_100,
    JAX,
    LARGE,
    MEDIUM,
    MIT,
    NO_ANTIALIAS,
    SMALL,
    TINY,
)
from vitzoo.variants.table import Family, Tag

VIT = Family(
    paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, table 1", arxiv="2010.11929"
)
# Sizes that timm chose, in no paper.
TIMM = Family(
    paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale; sizes by timm",
    arxiv="2010.11929",
)
TIMM_95 = replace(TIMM, preprocess=INCEPTION_95)
AUGREG = Family(
    paper="How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers", arxiv="2106.10270"
)
SCALING = Family(paper="Scaling Vision Transformers, table 2", arxiv="2106.04560")
MIIL = Family(paper="ImageNet-21K Pretraining for the Masses", arxiv="2104.10972")
IJEPA = Family(
    paper="Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    arxiv="2301.08243",
    license=CC_BY_NC,
    source="https://dl.fbaipublicfiles.com/ijepa/",
)
PARALLEL = Family(paper="Scaling Vision Transformers to 22 Billion Parameters, section 2.1", arxiv="2302.05442")
RES_POST = Family(paper="Swin Transformer V2: Scaling Up Capacity and Resolution, section 3.2", arxiv="2111.09883")
THREE_THINGS = Family(paper="Three things everyone should know about Vision Transformers", arxiv="2203.09795")
INTERN = Family(
    paper="Mini-InternVL: A Flexible-Transfer Pocket Multimodal Model with 5% Parameters and 90% Performance",
    arxiv="2410.16261",
    license=MIT,
)

# Trained in JAX, hence with its switches.
_JAX = Tag(preprocess=INCEPTION_90, license=APACHE, changes=JAX)
_JAX_384 = Tag(preprocess=INCEPTION_100, license=APACHE, changes=JAX)
_JAX_21K = Tag(preprocess=INCEPTION_90, license=APACHE, changes={**JAX, "num_classes": 21843})
_JAX_FEATURES = Tag(preprocess=INCEPTION_90, license=APACHE, changes={**JAX, "num_classes": 0})
# Fine-tuned or trained in timm, hence with the variant's own switches.
_TRAINED = Tag(preprocess=INCEPTION_90, license=APACHE)
_TRAINED_95 = Tag(preprocess=INCEPTION_95, license=APACHE)

AUGREG2_1K = {"augreg2_in21k_ft_in1k": _TRAINED}
AUGREG_21K_1K = {"augreg_in21k_ft_in1k": _JAX}
AUGREG_21K_1K_384 = {"augreg_in21k_ft_in1k": _JAX_384}
AUGREG_1K = {"augreg_in1k": _JAX}
AUGREG_1K_384 = {"augreg_in1k": _JAX_384}
AUGREG_21K = {"augreg_in21k": _JAX_21K}
ORIG_1K = {"orig_in21k_ft_in1k": _JAX}
ORIG_1K_384 = {"orig_in21k_ft_in1k": _JAX_384}
ORIG_21K = {"orig_in21k": _JAX_FEATURES}
# Sharpness-aware minimisation, arXiv 2106.01548, in JAX.
SAM = {"sam_in1k": _JAX}
# arXiv 2203.07845; its repository states no licence.
BAMBOO = {"bamboo": Tag(preprocess=CLIP_100, license="not stated", changes={"num_classes": 115217})}
# arXiv 2104.14294 and 2111.06377: without a head.
DINO = {"dino": Tag(preprocess=IMAGENET_90, license=APACHE, changes={**NO_ANTIALIAS, "num_classes": 0})}
MAE = {"mae": Tag(preprocess=IMAGENET_90, license=CC_BY_NC, changes={**NO_ANTIALIAS, "num_classes": 0})}
_MIIL = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=0.875, interpolation="bilinear")
MIIL_TAGS = {
    "in21k": Tag(preprocess=_MIIL, license=APACHE),
    "in21k_ft_in1k": Tag(preprocess=_MIIL, license=APACHE, changes={"num_classes": 1000}),
}

# Mean of the patches, normalised before (True) or after the mean, and no class token.
_GAP = {"class_token": False, "pool": "avg"}
_NORM_GAP = {**_GAP, "fc_norm": False}
_MEDIUM_GAP = {**MEDIUM, **_NORM_GAP, "qkv_bias": False, "init_values": 1e-6}
_XP = {
    "pre_norm": True,
    "no_embed_class": True,
    "norm": "rmsnorm",
    "block": "parallel",
    "qkv_bias": False,
    "qk_norm": True,
}


def _ijepa(file: str, preprocess: Preprocess = IMAGENET_90) -> Tag:
    return Tag(preprocess=preprocess, license=CC_BY_NC, source=f"{IJEPA.source}{file}.pth.tar")


VARIANTS = (
    AUGREG.row("vit_tiny_patch16_224", 5_717_416, AUGREG_21K_1K | AUGREG_21K, **TINY),
    AUGREG.row("vit_tiny_patch16_384", 5_790_376, AUGREG_21K_1K_384, **TINY, img_size=384),
    AUGREG.row("vit_small_patch32_224", 22_878_952, AUGREG_21K_1K | AUGREG_21K, **SMALL, patch_size=32),
    AUGREG.row("vit_small_patch32_384", 22_915_432, AUGREG_21K_1K_384, **SMALL, patch_size=32, img_size=384),
    AUGREG.row("vit_small_patch16_224", 22_050_664, AUGREG_21K_1K | AUGREG_1K | AUGREG_21K | DINO, **SMALL),
    AUGREG.row("vit_small_patch16_384", 22_196_584, AUGREG_21K_1K_384 | AUGREG_1K_384, **SMALL, img_size=384),
    AUGREG.row("vit_small_patch8_224", 21_670_272, DINO, **SMALL, patch_size=8, num_classes=0),
    VIT.row(
        "vit_base_patch32_224",
        88_224_232,
        AUGREG_21K_1K | AUGREG_1K | ORIG_21K | AUGREG_21K | SAM,
        **BASE,
        patch_size=32,
    ),
    VIT.row("vit_base_patch32_384", 88_297_192, AUGREG_21K_1K_384 | AUGREG_1K_384, **BASE, patch_size=32, img_size=384),
    VIT.row(
        "vit_base_patch16_224",
        86_567_656,
        AUGREG2_1K | AUGREG_21K_1K | ORIG_1K | AUGREG_1K | ORIG_21K | AUGREG_21K | SAM | BAMBOO | DINO | MAE,
        **BASE,
    ),
    VIT.row("vit_base_patch16_384", 86_859_496, AUGREG_21K_1K_384 | ORIG_1K_384 | AUGREG_1K_384, **BASE, img_size=384),
    VIT.row("vit_base_patch8_224", 86_576_872, AUGREG2_1K | AUGREG_21K_1K | AUGREG_21K | DINO, **BASE, patch_size=8),
    VIT.row("vit_large_patch32_224", 305_510_400, ORIG_21K, **LARGE, patch_size=32, num_classes=0),
    VIT.row("vit_large_patch32_384", 306_632_680, ORIG_1K_384, **LARGE, patch_size=32, img_size=384),
    VIT.row("vit_large_patch16_224", 304_326_632, AUGREG_21K_1K | ORIG_21K | AUGREG_21K | MAE, **LARGE),
    VIT.row("vit_large_patch16_384", 304_715_752, AUGREG_21K_1K_384, **LARGE, img_size=384),
    VIT.row("vit_large_patch14_224", 304_203_752, **LARGE, patch_size=14),
    VIT.row("vit_huge_patch14_224", 630_764_800, ORIG_21K | MAE, **HUGE, patch_size=14, num_classes=0),
    SCALING.row("vit_giant_patch14_224", 1_012_611_432, **GIANT, patch_size=14),
    SCALING.row("vit_gigantic_patch14_224", 1_844_440_680, **GIGANTIC, patch_size=14),
    MIIL.row("vit_base_patch16_224_miil", 94_399_957, MIIL_TAGS, **BASE, qkv_bias=False, num_classes=11221),
    TIMM.row(
        "vit_medium_patch16_gap_240",
        44_396_589,
        {"sw_in12k": _TRAINED_95},
        **_MEDIUM_GAP,
        img_size=240,
        num_classes=11821,
    ),
    TIMM.row("vit_medium_patch16_gap_256", 38_861_288, {"sw_in12k_ft_in1k": _TRAINED_95}, **_MEDIUM_GAP, img_size=256),
    TIMM.row(
        "vit_medium_patch16_gap_384",
        39_025_128,
        {"sw_in12k_ft_in1k": Tag(preprocess=Preprocess(crop_pct=0.95, crop_mode="squash"), license=APACHE)},
        **_MEDIUM_GAP,
        img_size=384,
    ),
    # With 16 heads of width 48, as timm has it.
    TIMM.row("vit_base_patch16_gap_224", 86_566_120, **{**BASE, "num_heads": 16}, **_NORM_GAP),
    TIMM.row(
        "vit_base_patch16_reg4_gap_256", 86_615_272, **BASE, **_GAP, img_size=256, reg_tokens=4, no_embed_class=True
    ),
    IJEPA.row(
        "vit_huge_patch14_gap_224",
        630_762_240,
        {"in1k_ijepa": _ijepa("IN1K-vit.h.14-300e"), "in22k_ijepa": _ijepa("IN22K-vit.h.14-900e")},
        **HUGE,
        **_NORM_GAP,
        patch_size=14,
        num_classes=0,
    ),
    IJEPA.row(
        "vit_huge_patch16_gap_448",
        631_668_480,
        {"in1k_ijepa": _ijepa("IN1K-vit.h.16-448px-300e", IMAGENET_100)},
        **HUGE,
        **_NORM_GAP,
        img_size=448,
        num_classes=0,
    ),
    IJEPA.row(
        "vit_giant_patch16_gap_224",
        1_011_368_576,
        {"in22k_ijepa": _ijepa("IN22K-vit.g.16-600e")},
        **GIANT,
        **_NORM_GAP,
        num_classes=0,
    ),
    TIMM_95.row("vit_base_patch32_plus_256", 119_478_120, **BASE_PLUS, patch_size=32, img_size=256, init_values=1e-5),
    TIMM_95.row("vit_base_patch16_plus_240", 117_557_992, **BASE_PLUS, img_size=240, init_values=1e-5),
    RES_POST.row(
        "vit_base_patch16_rpn_224",
        86_538_472,
        {"sw_in1k": _TRAINED},
        **BASE,
        **_GAP,
        block="res_post_norm",
        qkv_bias=False,
        init_values=1e-5,
    ),
    THREE_THINGS.row("vit_small_patch16_36x1_224", 64_665_448, **{**SMALL, "depth": 36}, init_values=1e-5),
    PARALLEL.row("vit_base_patch16_xp_224", 86_512_360, **BASE, **_XP),
    PARALLEL.row("vit_large_patch14_xp_224", 304_057_320, **LARGE, **_XP, patch_size=14),
    PARALLEL.row("vit_huge_patch14_xp_224", 631_802_600, **HUGE, **_XP, patch_size=14),
    INTERN.row(
        "vit_intern300m_patch14_448",
        304_012_288,
        {
            "ogvl_dist": Tag(preprocess=IMAGENET_100, license=MIT),
            "ogvl_2pt5": Tag(preprocess=IMAGENET_100, license=APACHE),
        },
        **LARGE,
        patch_size=14,
        img_size=448,
        init_values=0.1,
        final_norm=False,
        num_classes=0,
    ),
    # Small enough for tests.
    TIMM.row(
        "test_vit", 371_240, {"r160_in1k": _TRAINED_95}, img_size=160, embed_dim=64, depth=6, num_heads=2, mlp_ratio=3.0
    ),
    TIMM.row(
        "test_vit2",
        455_720,
        {"r160_in1k": _TRAINED_95},
        **_GAP,
        img_size=160,
        embed_dim=64,
        depth=8,
        num_heads=2,
        mlp_ratio=3.0,
        reg_tokens=1,
        init_values=1e-5,
    ),
    TIMM.row(
        "test_vit3",
        930_280,
        {"r160_in1k": _TRAINED_95},
        img_size=160,
        embed_dim=96,
        depth=9,
        num_heads=3,
        mlp_ratio=2.0,
        class_token=False,
        reg_tokens=1,
        pool="map",
        pool_include_prefix=True,
        init_values=1e-5,
    ),
    TIMM_95.row(
        "test_vit4",
        1_020_520,
        **_GAP,
        img_size=160,
        embed_dim=96,
        depth=9,
        num_heads=3,
        mlp_ratio=3.0,
        reg_tokens=1,
        init_values=1e-5,
        norm="rmsnorm",
    ),
)
ALIASES = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "vit_huge": "vit_huge_patch14_224",
    "vit_giant": "vit_giant_patch14_224",
    "vit_gigantic": "vit_gigantic_patch14_224",
}
