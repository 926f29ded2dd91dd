"""torchvision's ViTs: the plain sizes with its way of resizing positions and of preparing images."""

from __future__ import annotations

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import BASE, CC_BY_NC, HUGE, IMAGENET, IMAGENET_100, LARGE
from vitzoo.variants.table import Family, Tag

LICENSE = "bsd-3-clause"
_BILINEAR = Preprocess(**IMAGENET, crop_pct=224 / 256, interpolation="bilinear")
TORCHVISION = Family(
    paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, table 1",
    arxiv="2010.11929",
    license=LICENSE,
    preprocess=_BILINEAR,
    source="https://download.pytorch.org/models/",
)

# torchvision resizes positions corner on corner, by a bicubic without antialiasing.
_TV = {"pos_embed": ("learned", {"antialias": False, "align_corners": True})}


def _v1(file: str, preprocess: Preprocess = _BILINEAR) -> dict[str, Tag]:
    return {"imagenet1k_v1": Tag(preprocess=preprocess, license=LICENSE, source=TORCHVISION.source + file)}


def _swag(end_to_end: str, linear: str, *, img_size: int) -> dict[str, Tag]:
    """Return the tags of weights pretrained on hashtags (SWAG, arXiv 2201.08371), fine-tuned whole or at the head."""
    return {
        "imagenet1k_swag_e2e_v1": Tag(
            preprocess=IMAGENET_100,
            license=CC_BY_NC,
            source=TORCHVISION.source + end_to_end,
            changes={"img_size": img_size},
        ),
        "imagenet1k_swag_linear_v1": Tag(preprocess=IMAGENET_100, license=CC_BY_NC, source=TORCHVISION.source + linear),
    }


VARIANTS = (
    TORCHVISION.row(
        "vit_b_16",
        86_567_656,
        _v1("vit_b_16-c867db91.pth")
        | _swag("vit_b_16_swag-9ac1b537.pth", "vit_b_16_lc_swag-4e70ced5.pth", img_size=384),
        **BASE,
        **_TV,
    ),
    TORCHVISION.row("vit_b_32", 88_224_232, _v1("vit_b_32-d86f8d99.pth"), **BASE, **_TV, patch_size=32),
    TORCHVISION.row(
        "vit_l_16",
        304_326_632,
        _v1("vit_l_16-852ce7e3.pth", Preprocess(**IMAGENET, crop_pct=224 / 242, interpolation="bilinear"))
        | _swag("vit_l_16_swag-4f3808c9.pth", "vit_l_16_lc_swag-4d563306.pth", img_size=512),
        **LARGE,
        **_TV,
    ),
    TORCHVISION.row("vit_l_32", 306_535_400, _v1("vit_l_32-c7638314.pth"), **LARGE, **_TV, patch_size=32),
    TORCHVISION.row(
        "vit_h_14",
        632_045_800,
        _swag("vit_h_14_swag-80465313.pth", "vit_h_14_lc_swag-c1eb923e.pth", img_size=518),
        **HUGE,
        **_TV,
        patch_size=14,
    ),
)
ALIASES: dict[str, str] = {}
