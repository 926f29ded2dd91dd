"""Perception Encoder: core (for image and text), lang (for language models) and spatial (for dense tasks)."""

from __future__ import annotations

from typing import Any

from vitzoo.variants.common import APACHE, BASE, EPS5, INCEPTION_100, LARGE, SMALL, TINY
from vitzoo.variants.table import Family, Tag

PE = Family(
    paper="Perception Encoder: The best visual embeddings are not at the output of the network",
    arxiv="2504.13181",
    preprocess=INCEPTION_100,
)

_TAG = Tag(preprocess=INCEPTION_100, license=APACHE)
FB = {"fb": _TAG}
FB_TILING = {"fb": _TAG, "fb_tiling": _TAG}


def _switches(grid: int, *, class_token: bool = True) -> dict[str, Any]:
    """Return what all share: CLIP's norms, and a rope over a grid of that side that counts a class token as 0."""
    arguments = {"reference_grid": (grid, grid), "offset": float(class_token), "columns_first": True}
    return {"rope": ("axial", arguments), "class_token": class_token, "pre_norm": True, "norm": EPS5}


_GIGANTIC: dict[str, Any] = {"embed_dim": 1536, "depth": 50, "num_heads": 16, "mlp_ratio": 8960 / 1536}
_POOL: dict[str, Any] = {"pool": ("map", {"num_heads": 8, "mlp_ratio": 4.0}), "pool_include_prefix": True}
_CORE_384: dict[str, Any] = {**_switches(24), **_POOL, "img_size": 384, "num_classes": 512}
_CORE_224: dict[str, Any] = {**_switches(14), **_POOL, "num_classes": 1024}
_CORE_336: dict[str, Any] = {**_switches(24), **_POOL, "img_size": 336, "patch_size": 14, "num_classes": 1024}
# Neither lang nor spatial ends in a norm.
_OPEN: dict[str, Any] = {**_switches(32), "pool": "avg", "final_norm": False, "num_classes": 0}
_OPEN_448: dict[str, Any] = {**_OPEN, "img_size": 448, "patch_size": 14}
# The gigantic ones have no class token.
_BARE_448: dict[str, Any] = {**_switches(32, class_token=False), "img_size": 448, "patch_size": 14}
_BARE_OPEN_448: dict[str, Any] = {**_OPEN_448, **_BARE_448, "init_values": 0.1}

VARIANTS = (
    PE.row("vit_pe_core_tiny_patch16_384", 6_141_056, FB, **TINY, **_CORE_384),
    PE.row("vit_pe_core_small_patch16_384", 23_783_168, FB, **SMALL, **_CORE_384),
    PE.row("vit_pe_core_base_patch16_224", 93_673_984, FB, **BASE, **_CORE_224),
    PE.row("vit_pe_core_large_patch14_336", 317_152_256, FB, **LARGE, **_CORE_336),
    PE.row("vit_pe_core_gigantic_patch14_448", 1_882_033_920, FB, **_GIGANTIC, **_BARE_448, **_POOL, num_classes=1280),
    PE.row(
        "vit_pe_lang_large_patch14_448", 291_415_040, FB_TILING, **{**LARGE, "depth": 23}, **_OPEN_448, init_values=0.1
    ),
    PE.row(
        "vit_pe_lang_gigantic_patch14_448", 1_740_922_624, FB_TILING, **{**_GIGANTIC, "depth": 47}, **_BARE_OPEN_448
    ),
    PE.row("vit_pe_spatial_tiny_patch16_512", 5_683_200, FB, **TINY, **_OPEN, img_size=512),
    PE.row("vit_pe_spatial_small_patch16_512", 21_983_232, FB, **SMALL, **_OPEN, img_size=512),
    PE.row("vit_pe_spatial_base_patch16_512", 86_433_792, FB, **BASE, **_OPEN, img_size=512),
    PE.row("vit_pe_spatial_large_patch14_448", 303_964_160, FB, **LARGE, **_OPEN_448),
    PE.row("vit_pe_spatial_gigantic_patch14_448", 1_851_887_104, FB, **_GIGANTIC, **_BARE_OPEN_448),
)
ALIASES = {
    "pe_core_tiny": "vit_pe_core_tiny_patch16_384",
    "pe_core_small": "vit_pe_core_small_patch16_384",
    "pe_core_base": "vit_pe_core_base_patch16_224",
    "pe_core_large": "vit_pe_core_large_patch14_336",
    "pe_core_gigantic": "vit_pe_core_gigantic_patch14_448",
}
