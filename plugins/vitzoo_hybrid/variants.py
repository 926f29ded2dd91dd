"""timm's hybrids as rows of a table. Parameters were counted with the row's own head, and agree with timm's."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.table import Family, Tag

HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}
CROP_90, CROP_100 = Preprocess(**HALVES, crop_pct=0.9), Preprocess(**HALVES, crop_pct=1.0)

VIT = Family(paper="An Image is Worth 16x16 Words, section 3.1 (hybrid)", arxiv="2010.11929", preprocess=CROP_90)
AUGREG = Family(paper="How to train your ViT?, table 1", arxiv="2106.10270", preprocess=CROP_90)

_FINE_TUNED = Tag(preprocess=CROP_90, license="apache-2.0")
_FINE_TUNED_384 = Tag(preprocess=CROP_100, license="apache-2.0")
_IN21K = Tag(preprocess=CROP_90, license="apache-2.0", changes={"num_classes": 21843})
# These come without a head.
_ORIGINAL_IN21K = Tag(preprocess=CROP_90, license="apache-2.0", changes={"num_classes": 0})

AUGREG_224 = {"augreg_in21k_ft_in1k": _FINE_TUNED, "augreg_in21k": _IN21K}
AUGREG_384 = {"augreg_in21k_ft_in1k": _FINE_TUNED_384}

TINY: dict[str, Any] = {"embed_dim": 192, "depth": 12, "num_heads": 3}
SMALL: dict[str, Any] = {"embed_dim": 384, "depth": 12, "num_heads": 6}
BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}
LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}


def _after(*layers: int, patch_size: int) -> dict[str, Any]:
    """Return the settings of a ViT on a ResNet with these blocks a stage, one token for `patch_size` pixels a side."""
    return {"patch_embed": ("hybrid/resnetv2", {"layers": layers}), "patch_size": patch_size}


# The ResNet's stem alone, with a stride of 4, and patches of 8 x 8 of its features.
R_P8 = _after(patch_size=32)
R26 = _after(2, 2, 2, 2, patch_size=32)
# Three stages: the fourth's blocks are in the third, so that the stride is 16.
R50_S16 = _after(3, 4, 9, patch_size=16)
R50_S32 = _after(3, 4, 6, 3, patch_size=32)

VARIANTS = (
    AUGREG.row("vit_tiny_r_s16_p8_224", 6_337_704, AUGREG_224, **TINY, **R_P8),
    AUGREG.row("vit_tiny_r_s16_p8_384", 6_355_944, AUGREG_384, img_size=384, **TINY, **R_P8),
    AUGREG.row("vit_small_r26_s32_224", 36_431_912, AUGREG_224, **SMALL, **R26),
    AUGREG.row("vit_small_r26_s32_384", 36_468_392, AUGREG_384, img_size=384, **SMALL, **R26),
    AUGREG.row("vit_base_r26_s32_224", 101_383_976, None, **BASE, **R26),
    VIT.row("vit_base_r50_s16_224", 98_659_112, {"orig_in21k": _ORIGINAL_IN21K}, **BASE, **R50_S16),
    VIT.row(
        "vit_base_r50_s16_384", 98_950_952, {"orig_in21k_ft_in1k": _FINE_TUNED_384}, img_size=384, **BASE, **R50_S16
    ),
    AUGREG.row("vit_large_r50_s32_224", 328_994_856, AUGREG_224, **LARGE, **R50_S32),
    AUGREG.row("vit_large_r50_s32_384", 329_092_136, AUGREG_384, img_size=384, **LARGE, **R50_S32),
)
ALIASES = {
    "r26_s32": "vit_small_r26_s32_224",
    "r50_s16": "vit_base_r50_s16_224",
    "r50_s32": "vit_large_r50_s32_224",
}
