"""EVA and EVA-02, with their CLIP towers."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import (
    BASE,
    CLIP_90,
    CLIP_100,
    CLIP_SQUASH,
    GIANT,
    IMAGENET_SQUASH,
    LARGE,
    MIT,
    SMALL,
    TINY,
)
from vitzoo.variants.table import Family, Tag

EVA = Family(
    paper="EVA: Exploring the Limits of Masked Visual Representation Learning at Scale", arxiv="2211.07636", license=MIT
)
EVA02 = Family(paper="EVA-02: A Visual Representation for Neon Genesis", arxiv="2303.11331", license=MIT)
EVA_CLIP = Family(paper="EVA-CLIP: Improved Training Techniques for CLIP at Scale", arxiv="2303.15389", license=MIT)


def _tags(*names: str, preprocess: Preprocess = CLIP_90, classes: int | None = None) -> dict[str, Tag]:
    changes = {} if classes is None else {"num_classes": classes}
    return {name: Tag(preprocess=preprocess, license=MIT, changes=changes) for name in names}


_LARGE: dict[str, Any] = {**LARGE, "patch_size": 14, "pool": "avg"}
_GIANT: dict[str, Any] = {**GIANT, "patch_size": 14, "pool": "avg", "qkv_bias": "qv"}
# The positions of EVA-02's rope are those of a 16x16 grid, stretched to the image's own.
_02: dict[str, Any] = {
    "patch_size": 14,
    "pool": "avg",
    "rope": ("axial", {"reference_grid": (16, 16)}),
    "qkv_bias": "qv",
    "mlp": "swiglu_packed",
}
_TINY = {**TINY, **_02, "mlp_ratio": 512 / 192}
_SMALL = {**SMALL, **_02, "mlp_ratio": 1024 / 384}
# Base and large have three projections in place of one, and a norm in the MLP.
_SPLIT = {**_02, "qkv_fused": False, "mlp": "swiglu", "scale_mlp_norm": True}
_BASE = {**BASE, **_SPLIT, "mlp_ratio": 2048 / 768}
_LARGE_02 = {**LARGE, **_SPLIT, "mlp_ratio": 2730 / 1024}
_CLIP = {"pool": "token", "scale_attn_norm": True}
_ENORMOUS: dict[str, Any] = {"embed_dim": 1792, "depth": 64, "num_heads": 16, "mlp_ratio": 15360 / 1792}

VARIANTS = (
    EVA.row(
        "eva_large_patch14_196",
        304_142_312,
        _tags("in22k_ft_in22k_in1k", "in22k_ft_in1k", preprocess=CLIP_100),
        **_LARGE,
        img_size=196,
    ),
    EVA.row(
        "eva_large_patch14_336",
        304_531_432,
        _tags("in22k_ft_in22k_in1k", "in22k_ft_in1k", preprocess=CLIP_SQUASH),
        **_LARGE,
        img_size=336,
    ),
    EVA.row("eva_giant_patch14_224", 1_012_555_112, _tags("clip_ft_in1k"), **_GIANT),
    EVA.row(
        "eva_giant_patch14_336",
        1_013_005_672,
        _tags("clip_ft_in1k", preprocess=CLIP_SQUASH) | _tags("m30m_ft_in22k_in1k", preprocess=IMAGENET_SQUASH),
        **_GIANT,
        img_size=336,
    ),
    EVA.row(
        "eva_giant_patch14_560",
        1_014_447_464,
        _tags("m30m_ft_in22k_in1k", preprocess=IMAGENET_SQUASH),
        **_GIANT,
        img_size=560,
    ),
    EVA_CLIP.row(
        "eva_giant_patch14_clip_224",
        1_012_588_928,
        _tags("laion400m", "merged2b"),
        **{**_GIANT, "pool": "token"},
        num_classes=1024,
    ),
    EVA02.row("eva02_tiny_patch14_224", 5_502_144, _tags("mim_in22k"), **_TINY, num_classes=0),
    EVA02.row(
        "eva02_tiny_patch14_336", 5_756_584, _tags("mim_in22k_ft_in1k", preprocess=CLIP_100), **_TINY, img_size=336
    ),
    EVA02.row("eva02_small_patch14_224", 21_621_120, _tags("mim_in22k"), **_SMALL, num_classes=0),
    EVA02.row(
        "eva02_small_patch14_336", 22_129_000, _tags("mim_in22k_ft_in1k", preprocess=CLIP_100), **_SMALL, img_size=336
    ),
    EVA02.row("eva02_base_patch14_224", 85_758_720, _tags("mim_in22k"), **_BASE, num_classes=0),
    EVA02.row(
        "eva02_base_patch14_448",
        87_117_544,
        _tags("mim_in22k_ft_in22k_in1k", preprocess=CLIP_SQUASH)
        | _tags("mim_in22k_ft_in1k", preprocess=CLIP_100)
        | _tags("mim_in22k_ft_in22k", preprocess=CLIP_SQUASH, classes=21841),
        **_BASE,
        img_size=448,
    ),
    EVA02.row("eva02_large_patch14_224", 303_268_800, _tags("mim_in22k", "mim_m38m"), **_LARGE_02, num_classes=0),
    EVA02.row(
        "eva02_large_patch14_448",
        305_080_232,
        _tags("mim_in22k_ft_in22k_in1k", "mim_m38m_ft_in22k_in1k", preprocess=CLIP_SQUASH)
        | _tags("mim_in22k_ft_in1k", "mim_m38m_ft_in1k", preprocess=CLIP_100)
        | _tags("mim_in22k_ft_in22k", "mim_m38m_ft_in22k", preprocess=CLIP_SQUASH, classes=21841),
        **_LARGE_02,
        img_size=448,
    ),
    EVA_CLIP.row(
        "eva02_base_patch16_clip_224",
        86_263_040,
        _tags("merged2b"),
        **{**_BASE, **_CLIP, "patch_size": 16},
        num_classes=512,
    ),
    EVA_CLIP.row(
        "eva02_large_patch14_clip_224", 304_105_152, _tags("merged2b"), **{**_LARGE_02, **_CLIP}, num_classes=768
    ),
    EVA_CLIP.row(
        "eva02_large_patch14_clip_336",
        304_432_832,
        _tags("merged2b", preprocess=CLIP_100),
        **{**_LARGE_02, **_CLIP},
        img_size=336,
        num_classes=768,
    ),
    EVA_CLIP.row(
        "eva02_enormous_patch14_clip_224",
        4_350_556_928,
        _tags("laion2b", "laion2b_plus"),
        **_ENORMOUS,
        patch_size=14,
        block="res_post_norm",
        qkv_bias="qv",
        num_classes=1024,
    ),
)
ALIASES = {
    "eva_large": "eva_large_patch14_336",
    "eva_giant": "eva_giant_patch14_336",
    "eva02_tiny": "eva02_tiny_patch14_336",
    "eva02_small": "eva02_small_patch14_336",
    "eva02_base": "eva02_base_patch14_448",
    "eva02_large": "eva02_large_patch14_448",
}
