"""What several tables share: sizes, norms, how images are prepared, and switches of whole groups of weights."""

from __future__ import annotations

from typing import Any

from vitzoo.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION_MEAN,
    INCEPTION_STD,
    Preprocess,
)

# Sizes: ViT, arXiv 2010.11929, table 1 (base, large, huge); DeiT, 2012.12877, table 1 (tiny, small); Scaling Vision
# Transformers, 2106.04560, table 2 (giant, gigantic); Getting ViT in Shape, 2305.13035 (so400m).
TINY: dict[str, Any] = {"embed_dim": 192, "depth": 12, "num_heads": 3}
SMALL: dict[str, Any] = {"embed_dim": 384, "depth": 12, "num_heads": 6}
MEDIUM: dict[str, Any] = {"embed_dim": 512, "depth": 12, "num_heads": 8}
BETWIXT: dict[str, Any] = {"embed_dim": 640, "depth": 12, "num_heads": 10}
BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}
BASE_PLUS: dict[str, Any] = {"embed_dim": 896, "depth": 12, "num_heads": 14}
LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
SO400M: dict[str, Any] = {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 4304 / 1152}
HUGE: dict[str, Any] = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
GIANT: dict[str, Any] = {"embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 6144 / 1408}
GIGANTIC: dict[str, Any] = {"embed_dim": 1664, "depth": 48, "num_heads": 16, "mlp_ratio": 8192 / 1664}

# The giant of DINOv2 and its descendants, with a gated MLP of 4096.
SWIGLU_GIANT: dict[str, Any] = {"embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 4096 / 1536}

EPS5 = ("layernorm", {"eps": 1e-5})

APACHE, MIT, CC_BY_NC = "apache-2.0", "mit", "cc-by-nc-4.0"

INCEPTION: dict[str, Any] = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
CLIP: dict[str, Any] = {"mean": CLIP_MEAN, "std": CLIP_STD}

# Prepared images are named by mean and standard deviation and by the percentage of the side that the crop keeps.
INCEPTION_90, INCEPTION_95, INCEPTION_100 = (Preprocess(**INCEPTION, crop_pct=pct) for pct in (0.9, 0.95, 1.0))
IMAGENET_90, IMAGENET_100 = (Preprocess(**IMAGENET, crop_pct=pct) for pct in (0.9, 1.0))
CLIP_90, CLIP_95, CLIP_100 = (Preprocess(**CLIP, crop_pct=pct) for pct in (0.9, 0.95, 1.0))
INCEPTION_SQUASH, IMAGENET_SQUASH, CLIP_SQUASH = (
    Preprocess(**statistics, crop_pct=1.0, crop_mode="squash") for statistics in (INCEPTION, IMAGENET, CLIP)
)

# Google's JAX code has GELU's tanh approximation, and resizes positions by scipy's zoom of order 1: corners on corners.
JAX: dict[str, Any] = {
    "mlp": "gelu_tanh",
    "pos_embed": ("learned", {"interpolation": "bilinear", "antialias": False, "align_corners": True}),
}

# The code of DeiT, MAE, DINO and DINOv2 resizes positions by a bicubic without antialiasing.
NO_ANTIALIAS: dict[str, Any] = {"pos_embed": ("learned", {"antialias": False})}
