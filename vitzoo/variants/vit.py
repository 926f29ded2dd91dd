"""ViT: the first sizes, from tiny to gigantic."""

from __future__ import annotations

from vitzoo.config import ViTConfig
from vitzoo.variants.table import Variant

VARIANTS = (
    Variant(
        name="vit_small_patch16_224",
        config=ViTConfig(embed_dim=384, depth=12, num_heads=6),
        params=22_050_664,
        paper="An Image is Worth 16x16 Words",
        arxiv="2010.11929",
    ),
)
ALIASES = {"vit_small": "vit_small_patch16_224"}
