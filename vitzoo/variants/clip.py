"""Image towers of CLIP: OpenAI's, OpenCLIP's, DFN, MetaCLIP and TinyCLIP, and their fine-tuned classifiers.

A tower's head is its projection into the space shared with text. The names with 'quickgelu' have that activation in
the variant itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitzoo.preprocess import Preprocess
from vitzoo.variants.common import (
    APACHE,
    BASE,
    BASE_PLUS,
    BETWIXT,
    CC_BY_NC,
    CLIP,
    CLIP_90,
    CLIP_95,
    CLIP_100,
    CLIP_SQUASH,
    EPS5,
    GIANT,
    GIGANTIC,
    HUGE,
    INCEPTION_100,
    INCEPTION_SQUASH,
    LARGE,
    MEDIUM,
    MIT,
)
from vitzoo.variants.table import Family, Tag

OPENAI = Family(
    paper="Learning Transferable Visual Models From Natural Language Supervision",
    arxiv="2103.00020",
    preprocess=CLIP_100,
)
OPENCLIP = Family(
    paper="Reproducible scaling laws for contrastive language-image learning", arxiv="2212.07143", preprocess=CLIP_100
)
TINYCLIP = Family(
    paper="TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance",
    arxiv="2309.12314",
    license=MIT,
    preprocess=CLIP_90,
)

DFN_LICENSE = "apple-ascl"
CLIP_95_SQUASH = Preprocess(**CLIP, crop_pct=0.95, crop_mode="squash")


def _tower(outputs: int, license: str = APACHE, preprocess: Preprocess = CLIP_100, *, quick: bool = False) -> Tag:
    """Return a tag of a tower: a projection to `outputs`, and quick GELU where the weights were trained with it.

    They were, as OpenCLIP builds them: OpenAI's, DFN's first ones, most of MetaCLIP's, and LAION-400M's B/32.
    """
    changes: dict[str, Any] = {"num_classes": outputs}
    return Tag(preprocess=preprocess, license=license, changes=changes | {"mlp": "quick_gelu"} if quick else changes)


def _classifiers(*tags: str, preprocess: Preprocess = CLIP_100, classes: int = 1000) -> dict[str, Tag]:
    """Return tags of towers fine-tuned in timm, with its exact GELU, whatever they were pretrained with."""
    return {tag: Tag(preprocess=preprocess, license=APACHE, changes={"num_classes": classes}) for tag in tags}


def _openai(outputs: int, preprocess: Preprocess = CLIP_100) -> dict[str, Tag]:
    return {"openai": _tower(outputs, preprocess=preprocess, quick=True)}


def _metaclip(outputs: int, *tags: str) -> dict[str, Tag]:
    return {tag: _tower(outputs, CC_BY_NC, quick=True) for tag in tags or ("metaclip_2pt5b", "metaclip_400m")}


def _dfn(tag: str, outputs: int) -> dict[str, Tag]:
    return {tag: _tower(outputs, DFN_LICENSE, quick=True)}


_CLIP: dict[str, Any] = {"pre_norm": True, "norm": EPS5}
_B32, _B16, _L14 = {**BASE, **_CLIP, "patch_size": 32}, {**BASE, **_CLIP}, {**LARGE, **_CLIP, "patch_size": 14}
_H14, _BIGG14 = {**HUGE, **_CLIP, "patch_size": 14}, {**GIGANTIC, **_CLIP, "patch_size": 14}


def _quick(size: dict[str, Any], outputs: int) -> dict[str, Any]:
    return {**size, "mlp": "quick_gelu", "num_classes": outputs}


def _published_as(name: str) -> Family:
    """Return the family of a variant whose weights are published under another variant's name."""
    return replace(OPENAI, source=f"timm/{name}.{{tag}}")


VARIANTS = (
    OPENAI.row(
        "vit_base_patch32_clip_224",
        88_225_000,
        _classifiers("laion2b_ft_in12k_in1k", "laion2b_ft_in1k", "openai_ft_in1k", preprocess=CLIP_90)
        | {"laion2b": _tower(512, preprocess=CLIP_90), "laion400m_e32": _tower(512, MIT, CLIP_90, quick=True)}
        | {"datacompxl": _tower(512)}
        | _metaclip(512)
        | _openai(512, CLIP_90),
        **_B32,
    ),
    OPENCLIP.row(
        "vit_base_patch32_clip_256", 87_861_248, {"datacompxl": _tower(512)}, **_B32, img_size=256, num_classes=512
    ),
    OPENCLIP.row(
        "vit_base_patch32_clip_384",
        88_297_960,
        _classifiers("laion2b_ft_in12k_in1k") | _classifiers("openai_ft_in12k_in1k", preprocess=CLIP_95_SQUASH),
        **_B32,
        img_size=384,
    ),
    OPENCLIP.row("vit_base_patch32_clip_448", 88_337_896, _classifiers("laion2b_ft_in12k_in1k"), **_B32, img_size=448),
    OPENAI.row(
        "vit_base_patch16_clip_224",
        86_568_424,
        _classifiers("laion2b_ft_in12k_in1k", "openai_ft_in12k_in1k", preprocess=CLIP_95)
        | _classifiers("laion2b_ft_in1k")
        | _classifiers("openai_ft_in1k", preprocess=CLIP_90)
        | _classifiers("laion2b_ft_in12k", "openai_ft_in12k", preprocess=CLIP_90, classes=11821)
        | {"laion2b": _tower(512), "laion400m_e32": _tower(512, MIT), "datacompxl": _tower(512)}
        | _dfn("dfn2b", 512)
        | _metaclip(512)
        | _openai(512, CLIP_90),
        **_B16,
    ),
    OPENAI.row(
        "vit_base_patch16_clip_384",
        86_860_264,
        _classifiers("laion2b_ft_in12k_in1k", preprocess=CLIP_SQUASH)
        | _classifiers("openai_ft_in12k_in1k", preprocess=CLIP_95_SQUASH)
        | _classifiers("laion2b_ft_in1k", "openai_ft_in1k", preprocess=CLIP_SQUASH),
        **_B16,
        img_size=384,
    ),
    OPENCLIP.row(
        "vit_base_patch16_plus_clip_240",
        117_214_464,
        {"laion400m_e32": _tower(640, MIT)},
        **BASE_PLUS,
        **_CLIP,
        img_size=240,
        num_classes=640,
    ),
    OPENAI.row(
        "vit_large_patch14_clip_224",
        304_204_776,
        _classifiers("laion2b_ft_in12k_in1k", preprocess=INCEPTION_100)
        | _classifiers("openai_ft_in12k_in1k")
        | _classifiers("laion2b_ft_in1k", preprocess=INCEPTION_100)
        | _classifiers("openai_ft_in1k")
        | _classifiers("laion2b_ft_in12k", preprocess=INCEPTION_100, classes=11821)
        | _classifiers("openai_ft_in12k", classes=11821)
        | {"laion2b": _tower(768, preprocess=INCEPTION_100), "laion400m_e32": _tower(768, MIT)}
        | {"datacompxl": _tower(768), "dfn2b_s39b": _tower(768, DFN_LICENSE)}
        | _dfn("dfn2b", 768)
        | _metaclip(768)
        | _openai(768)
        | {"apple_mclip2_dfndr2b": _tower(768, "apple-amlr")},
        **_L14,
    ),
    OPENAI.row(
        "vit_large_patch14_clip_336",
        304_532_456,
        _classifiers("laion2b_ft_in12k_in1k", preprocess=INCEPTION_SQUASH)
        | _classifiers("openai_ft_in12k_in1k", preprocess=CLIP_SQUASH)
        | _classifiers("laion2b_ft_in1k", preprocess=INCEPTION_SQUASH)
        | _openai(768),
        **_L14,
        img_size=336,
    ),
    OPENCLIP.row(
        "vit_huge_patch14_clip_224",
        632_047_080,
        _classifiers("laion2b_ft_in12k_in1k", "laion2b_ft_in1k")
        | _classifiers("laion2b_ft_in12k", classes=11821)
        | {"laion2b": _tower(1024)}
        | _dfn("dfn5b", 1024)
        | _metaclip(1024, "metaclip2_worldwide", "metaclip_2pt5b")
        | {"metaclip_altogether": _tower(1024, CC_BY_NC)},
        **_H14,
    ),
    OPENCLIP.row(
        "vit_huge_patch14_clip_336",
        632_456_680,
        _classifiers("laion2b_ft_in12k_in1k", preprocess=CLIP_SQUASH),
        **_H14,
        img_size=336,
    ),
    OPENCLIP.row(
        "vit_huge_patch14_clip_378",
        632_683_264,
        _dfn("dfn5b", 1024) | {"metaclip2_worldwide": _tower(1024, CC_BY_NC, CLIP_SQUASH)},
        **_H14,
        img_size=378,
        num_classes=1024,
    ),
    OPENCLIP.row(
        "vit_giant_patch14_clip_224",
        1_012_646_656,
        {"laion2b": _tower(1024)},
        **GIANT,
        **_CLIP,
        patch_size=14,
        num_classes=1024,
    ),
    OPENCLIP.row(
        "vit_gigantic_patch14_clip_224",
        1_844_908_544,
        {"laion2b": _tower(1280), "metaclip2_worldwide": _tower(1280, CC_BY_NC)} | _metaclip(1280, "metaclip_2pt5b"),
        **_BIGG14,
        num_classes=1280,
    ),
    OPENCLIP.row(
        "vit_gigantic_patch14_clip_378",
        1_845_695_616,
        {"metaclip2_worldwide": _tower(1280, CC_BY_NC, CLIP_SQUASH)},
        **_BIGG14,
        img_size=378,
        num_classes=1280,
    ),
    _published_as("vit_base_patch32_clip_224").row(
        "vit_base_patch32_clip_quickgelu_224",
        87_849_728,
        {"laion400m_e32": _tower(512, MIT, CLIP_90)} | _metaclip(512) | _openai(512, CLIP_90),
        **_quick(_B32, 512),
    ),
    _published_as("vit_base_patch16_clip_224").row(
        "vit_base_patch16_clip_quickgelu_224",
        86_193_152,
        _metaclip(512) | _openai(512, CLIP_90),
        **_quick(_B16, 512),
    ),
    _published_as("vit_large_patch14_clip_224").row(
        "vit_large_patch14_clip_quickgelu_224",
        303_966_976,
        _dfn("dfn2b", 768) | _metaclip(768) | _openai(768),
        **_quick(_L14, 768),
    ),
    _published_as("vit_large_patch14_clip_336").row(
        "vit_large_patch14_clip_quickgelu_336", 304_294_656, _openai(768), **_quick(_L14, 768), img_size=336
    ),
    _published_as("vit_huge_patch14_clip_224").row(
        "vit_huge_patch14_clip_quickgelu_224",
        632_077_824,
        _dfn("dfn5b", 1024) | _metaclip(1024, "metaclip2_worldwide", "metaclip_2pt5b"),
        **_quick(_H14, 1024),
    ),
    _published_as("vit_huge_patch14_clip_378").row(
        "vit_huge_patch14_clip_quickgelu_378", 632_683_264, _dfn("dfn5b", 1024), **_quick(_H14, 1024), img_size=378
    ),
    _published_as("vit_gigantic_patch14_clip_224").row(
        "vit_gigantic_patch14_clip_quickgelu_224",
        1_844_908_544,
        _metaclip(1280, "metaclip_2pt5b"),
        **_quick(_BIGG14, 1280),
    ),
    TINYCLIP.row(
        "vit_xsmall_patch16_clip_224",
        8_277_504,
        {"tinyclip_yfcc15m": _tower(512, MIT, CLIP_90)},
        embed_dim=256,
        depth=10,
        num_heads=4,
        **_CLIP,
        num_classes=512,
    ),
    TINYCLIP.row(
        "vit_medium_patch16_clip_224",
        38_587_904,
        {"tinyclip_yfcc15m": _tower(512, MIT, CLIP_90)},
        **MEDIUM,
        **_CLIP,
        num_classes=512,
    ),
    TINYCLIP.row(
        "vit_medium_patch32_clip_224",
        39_692_288,
        {"tinyclip_laion400m": _tower(512, MIT, CLIP_90)},
        **MEDIUM,
        **_CLIP,
        patch_size=32,
        num_classes=512,
    ),
    TINYCLIP.row(
        "vit_betwixt_patch32_clip_224",
        61_411_712,
        {"tinyclip_laion400m": _tower(512, MIT, CLIP_90)},
        **BETWIXT,
        **_CLIP,
        patch_size=32,
        num_classes=512,
    ),
)
ALIASES = {
    "clip_base": "vit_base_patch16_clip_224",
    "clip_large": "vit_large_patch14_clip_224",
    "clip_huge": "vit_huge_patch14_clip_224",
    "clip_giant": "vit_giant_patch14_clip_224",
    "clip_gigantic": "vit_gigantic_patch14_clip_224",
}
