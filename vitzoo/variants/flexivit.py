"""FlexiViT: one model for many patch sizes; `set_input_size(patch_size=...)` changes it."""

from __future__ import annotations

from vitzoo.variants.common import APACHE, BASE, INCEPTION_95, LARGE, SMALL
from vitzoo.variants.table import Family, Tag

FLEXIVIT = Family(paper="FlexiViT: One Model for All Patch Sizes", arxiv="2212.08013", preprocess=INCEPTION_95)

# Trained in JAX with the tanh approximation, positions resized by its bilinear without antialiasing.
_JAX = {"mlp": "gelu_tanh", "pos_embed": ("learned", {"interpolation": "bilinear", "antialias": False})}
_1K = Tag(preprocess=INCEPTION_95, license=APACHE, changes=_JAX)
_21K = Tag(preprocess=INCEPTION_95, license=APACHE, changes={**_JAX, "num_classes": 21843})
IN1K = {"1200ep_in1k": _1K, "600ep_in1k": _1K, "300ep_in1k": _1K}
IN21K = {"1000ep_in21k": _21K, "300ep_in21k": _21K, "patch16_in21k": _21K, "patch30_in21k": _21K}

_FLEXI = {"img_size": 240, "no_embed_class": True}

VARIANTS = (
    FLEXIVIT.row("flexivit_small", 22_061_416, IN1K, **SMALL, **_FLEXI),
    FLEXIVIT.row("flexivit_base", 86_589_160, IN1K | IN21K, **BASE, **_FLEXI),
    FLEXIVIT.row("flexivit_large", 304_355_304, IN1K, **LARGE, **_FLEXI),
)
ALIASES: dict[str, str] = {}
