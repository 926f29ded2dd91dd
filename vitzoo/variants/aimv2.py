"""AIMv2: no class token and no biases, RMS norms, gated MLPs."""

from __future__ import annotations

from typing import Any

from vitzoo.variants.common import CLIP_100
from vitzoo.variants.table import Family, Tag

LICENSE = "apple-ascl"
AIMV2 = Family(
    paper="Multimodal Autoregressive Pre-training of Large Vision Encoders",
    arxiv="2411.14402",
    license=LICENSE,
    preprocess=CLIP_100,
)

_TAG = Tag(preprocess=CLIP_100, license=LICENSE)
PT = {"apple_pt": _TAG}
PT_DIST = {"apple_pt": _TAG, "apple_pt_dist": _TAG}

_2: dict[str, Any] = {
    "patch_size": 14,
    "num_classes": 0,
    "class_token": False,
    "pool": "avg",
    "fc_norm": False,
    "patch_embed": ("conv", {"use_norm": True}),
    "norm": ("rmsnorm", {"eps": 1e-5}),
    "mlp": "swiglu",
    "qkv_bias": False,
    "proj_bias": False,
}
_LARGE = {**_2, "embed_dim": 1024, "depth": 24, "num_heads": 8, "mlp_ratio": 2816 / 1024}
_HUGE = {**_2, "embed_dim": 1536, "depth": 24, "num_heads": 12, "mlp_ratio": 4096 / 1536}
_1B = {**_2, "embed_dim": 2048, "depth": 24, "num_heads": 16, "mlp_ratio": 5632 / 2048}
_3B = {**_2, "embed_dim": 3072, "depth": 24, "num_heads": 24, "mlp_ratio": 8192 / 3072}

VARIANTS = (
    AIMV2.row("aimv2_large_patch14_224", 309_197_824, PT_DIST, **_LARGE),
    AIMV2.row("aimv2_large_patch14_336", 309_525_504, PT_DIST, **_LARGE, img_size=336),
    AIMV2.row("aimv2_large_patch14_448", 309_984_256, PT, **_LARGE, img_size=448),
    AIMV2.row("aimv2_huge_patch14_224", 680_851_968, PT, **_HUGE),
    AIMV2.row("aimv2_huge_patch14_336", 681_343_488, PT, **_HUGE, img_size=336),
    AIMV2.row("aimv2_huge_patch14_448", 682_031_616, PT, **_HUGE, img_size=448),
    AIMV2.row("aimv2_1b_patch14_224", 1_234_958_336, PT, **_1B),
    AIMV2.row("aimv2_1b_patch14_336", 1_235_613_696, PT, **_1B, img_size=336),
    AIMV2.row("aimv2_1b_patch14_448", 1_236_531_200, PT, **_1B, img_size=448),
    AIMV2.row("aimv2_3b_patch14_224", 2_720_658_432, PT, **_3B),
    AIMV2.row("aimv2_3b_patch14_336", 2_721_641_472, PT, **_3B, img_size=336),
    AIMV2.row("aimv2_3b_patch14_448", 2_723_017_728, PT, **_3B, img_size=448),
)
ALIASES = {
    "aimv2_large": "aimv2_large_patch14_224",
    "aimv2_huge": "aimv2_huge_patch14_224",
    "aimv2_1b": "aimv2_1b_patch14_224",
    "aimv2_3b": "aimv2_3b_patch14_224",
}
