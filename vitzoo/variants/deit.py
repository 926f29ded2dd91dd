"""DeiT, DeiT with a distillation token, and DeiT III."""

from __future__ import annotations

from vitzoo.variants.common import (
    APACHE,
    BASE,
    HUGE,
    IMAGENET_90,
    IMAGENET_100,
    LARGE,
    MEDIUM,
    NO_ANTIALIAS,
    SMALL,
    TINY,
)
from vitzoo.variants.table import Family, Tag

DEIT = Family(
    paper="Training data-efficient image transformers & distillation through attention, table 1",
    arxiv="2012.12877",
    preprocess=IMAGENET_90,
)
DEIT3 = Family(paper="DeiT III: Revenge of the ViT", arxiv="2204.07118", preprocess=IMAGENET_90)

# Trained by code that resizes positions without antialiasing.
_90 = Tag(preprocess=IMAGENET_90, license=APACHE, changes=NO_ANTIALIAS)
_100 = Tag(preprocess=IMAGENET_100, license=APACHE, changes=NO_ANTIALIAS)
AT_224 = {"fb_in1k": _90}
AT_384 = {"fb_in1k": _100}
DEIT3_224 = {"fb_in1k": _90, "fb_in22k_ft_in1k": _100}
DEIT3_384 = {"fb_in1k": _100, "fb_in22k_ft_in1k": _100}

_DISTILLED = {"dist_token": True, "pool": "distilled"}
_3 = {"no_embed_class": True, "init_values": 1e-6}

VARIANTS = (
    DEIT.row("deit_tiny_patch16_224", 5_717_416, AT_224, **TINY),
    DEIT.row("deit_small_patch16_224", 22_050_664, AT_224, **SMALL),
    DEIT.row("deit_base_patch16_224", 86_567_656, AT_224, **BASE),
    DEIT.row("deit_base_patch16_384", 86_859_496, AT_384, **BASE, img_size=384),
    DEIT.row("deit_tiny_distilled_patch16_224", 5_910_800, AT_224, **TINY, **_DISTILLED),
    DEIT.row("deit_small_distilled_patch16_224", 22_436_432, AT_224, **SMALL, **_DISTILLED),
    DEIT.row("deit_base_distilled_patch16_224", 87_338_192, AT_224, **BASE, **_DISTILLED),
    DEIT.row("deit_base_distilled_patch16_384", 87_630_032, AT_384, **BASE, **_DISTILLED, img_size=384),
    DEIT3.row("deit3_small_patch16_224", 22_059_496, DEIT3_224, **SMALL, **_3),
    DEIT3.row("deit3_small_patch16_384", 22_205_416, DEIT3_384, **SMALL, **_3, img_size=384),
    DEIT3.row("deit3_medium_patch16_224", 38_849_512, DEIT3_224, **MEDIUM, **_3),
    DEIT3.row("deit3_base_patch16_224", 86_585_320, DEIT3_224, **BASE, **_3),
    DEIT3.row("deit3_base_patch16_384", 86_877_160, DEIT3_384, **BASE, **_3, img_size=384),
    DEIT3.row("deit3_large_patch16_224", 304_374_760, DEIT3_224, **LARGE, **_3),
    DEIT3.row("deit3_large_patch16_384", 304_763_880, DEIT3_384, **LARGE, **_3, img_size=384),
    DEIT3.row("deit3_huge_patch14_224", 632_126_440, DEIT3_224, **HUGE, **_3, patch_size=14),
)
ALIASES = {
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "deit_tiny_distilled": "deit_tiny_distilled_patch16_224",
    "deit_small_distilled": "deit_small_distilled_patch16_224",
    "deit_base_distilled": "deit_base_distilled_patch16_224",
    "deit3_small": "deit3_small_patch16_224",
    "deit3_medium": "deit3_medium_patch16_224",
    "deit3_base": "deit3_base_patch16_224",
    "deit3_large": "deit3_large_patch16_224",
    "deit3_huge": "deit3_huge_patch14_224",
}
