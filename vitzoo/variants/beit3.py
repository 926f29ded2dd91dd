"""The image branch of BEiT-3."""

from __future__ import annotations

from typing import Any

from vitzoo.variants.common import APACHE, BASE, EPS5, GIANT, IMAGENET_100, LARGE
from vitzoo.variants.table import Family, Tag

BEIT3 = Family(
    paper="Image as a Foreign Language: BEiT Pretraining for All Vision and Vision-Language Tasks",
    arxiv="2208.10442",
    preprocess=IMAGENET_100,
)

_CLASSES = Tag(preprocess=IMAGENET_100, license=APACHE)
_FEATURES = Tag(preprocess=IMAGENET_100, license=APACHE, changes={"num_classes": 0})
TAGS = {
    "in22k_ft_in1k": _CLASSES,
    "indomain_in22k_ft_in1k": _CLASSES,
    "pt": _FEATURES,
    "indomain_pt": _FEATURES,
}

_3: dict[str, Any] = {"pool": "avg", "norm": EPS5, "scale_attn_norm": True, "scale_mlp_norm": True}

VARIANTS = (
    BEIT3.row("beit3_base_patch16_224", 86_659_816, TAGS, **BASE, **_3),
    BEIT3.row("beit3_large_patch16_224", 304_572_392, TAGS, **LARGE, **_3),
    BEIT3.row("beit3_giant_patch14_224", 1_013_215_592, **GIANT, **_3, patch_size=14),
    BEIT3.row("beit3_giant_patch14_336", 1_013_666_152, **GIANT, **_3, patch_size=14, img_size=336),
)
ALIASES = {
    "beit3_base": "beit3_base_patch16_224",
    "beit3_large": "beit3_large_patch16_224",
    "beit3_giant": "beit3_giant_patch14_224",
}
