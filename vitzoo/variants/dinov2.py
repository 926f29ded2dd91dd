"""DINOv2, without and with register tokens."""

from __future__ import annotations

from vitzoo.variants.common import APACHE, BASE, IMAGENET_100, LARGE, NO_ANTIALIAS, SMALL, SWIGLU_GIANT
from vitzoo.variants.table import Family, Tag

PLAIN = Family(paper="DINOv2: Learning Robust Visual Features without Supervision", arxiv="2304.07193")
REGISTERS = Family(paper="Vision Transformers Need Registers", arxiv="2309.16588")

# The models without registers resize positions without antialiasing, those with registers with it.
LVD = {"lvd142m": Tag(preprocess=IMAGENET_100, license=APACHE, changes=NO_ANTIALIAS)}
LVD_REGISTERS = {"lvd142m": Tag(preprocess=IMAGENET_100, license=APACHE)}

_2 = {"img_size": 518, "patch_size": 14, "init_values": 1e-5, "num_classes": 0}
_REG4 = {**_2, "reg_tokens": 4, "no_embed_class": True}
_GIANT = {**SWIGLU_GIANT, "mlp": "swiglu_packed"}

VARIANTS = (
    PLAIN.row("vit_small_patch14_dinov2", 22_056_192, LVD, **SMALL, **_2),
    PLAIN.row("vit_base_patch14_dinov2", 86_579_712, LVD, **BASE, **_2),
    PLAIN.row("vit_large_patch14_dinov2", 304_367_616, LVD, **LARGE, **_2),
    PLAIN.row("vit_giant_patch14_dinov2", 1_136_479_232, LVD, **_GIANT, **_2),
    REGISTERS.row("vit_small_patch14_reg4_dinov2", 22_057_344, LVD_REGISTERS, **SMALL, **_REG4),
    REGISTERS.row("vit_base_patch14_reg4_dinov2", 86_582_016, LVD_REGISTERS, **BASE, **_REG4),
    REGISTERS.row("vit_large_patch14_reg4_dinov2", 304_370_688, LVD_REGISTERS, **LARGE, **_REG4),
    REGISTERS.row("vit_giant_patch14_reg4_dinov2", 1_136_483_840, LVD_REGISTERS, **_GIANT, **_REG4),
)
ALIASES = {
    "dinov2_small": "vit_small_patch14_dinov2",
    "dinov2_base": "vit_base_patch14_dinov2",
    "dinov2_large": "vit_large_patch14_dinov2",
    "dinov2_giant": "vit_giant_patch14_dinov2",
    "dinov2_small_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_base_reg": "vit_base_patch14_reg4_dinov2",
    "dinov2_large_reg": "vit_large_patch14_reg4_dinov2",
    "dinov2_giant_reg": "vit_giant_patch14_reg4_dinov2",
}
