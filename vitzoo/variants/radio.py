"""C-RADIO: students of several foundation models, with a token for each teacher among the registers."""

from __future__ import annotations

from typing import Any

from vitzoo.variants.common import BASE, CLIP_100, HUGE, LARGE, SO400M
from vitzoo.variants.table import Family, Tag

LICENSE = "nvidia-open-model-license"
V3 = Family(
    paper="RADIOv2.5: Improved Baselines for Agglomerative Vision Foundation Models",
    arxiv="2412.07679",
    license=LICENSE,
    preprocess=CLIP_100,
)
V4 = Family(paper="C-RADIOv4 (Tech Report)", arxiv="2601.17237", license=LICENSE, preprocess=CLIP_100)


def _c_radio(*, align_corners: bool) -> dict[str, Tag]:
    """Return the tag of weights whose code resizes positions bilinearly without antialiasing, each in its own way."""
    positions = {"interpolation": "bilinear", "antialias": False, "align_corners": align_corners}
    changes = {"pos_embed": ("learned", positions)}
    return {"c_radio": Tag(preprocess=CLIP_100, license=LICENSE, changes=changes)}


_3: dict[str, Any] = {
    "img_size": 512,
    "reg_tokens": 7,
    "no_embed_class": True,
    "final_norm": False,
    "num_classes": 0,
}
_SCALED = {**_3, "init_values": 1e-5}
_4 = {**_3, "reg_tokens": 9}
_GIANT: dict[str, Any] = {"embed_dim": 1536, "depth": 40, "num_heads": 24}

VARIANTS = (
    V3.row("vit_base_patch16_radio_v3", 86_456_064, _c_radio(align_corners=True), **BASE, **_SCALED),
    V3.row("vit_large_patch16_radio_v3", 304_202_752, _c_radio(align_corners=False), **LARGE, **_SCALED),
    V3.row("vit_huge_patch16_radio_v3", 631_983_360, _c_radio(align_corners=True), **HUGE, **_3),
    V3.row("vit_giant_patch16_radio_v3", 1_136_027_136, _c_radio(align_corners=False), **_GIANT, **_3),
    V4.row("vit_so400m_patch16_radio_v4", 413_543_664, _c_radio(align_corners=False), **SO400M, **_4),
    V4.row("vit_huge_patch16_radio_v4", 631_985_920, _c_radio(align_corners=False), **HUGE, **_4),
)
ALIASES = {
    "radio_v3_base": "vit_base_patch16_radio_v3",
    "radio_v3_large": "vit_large_patch16_radio_v3",
    "radio_v3_huge": "vit_huge_patch16_radio_v3",
    "radio_v4_so400m": "vit_so400m_patch16_radio_v4",
    "radio_v4_huge": "vit_huge_patch16_radio_v4",
}
