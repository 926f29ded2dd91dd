"""Textbook models: for images of 32 pixels, and the ViT without class token and positions."""

from __future__ import annotations

from vitzoo.variants.common import BASE, SMALL, TINY
from vitzoo.variants.table import Family

VIT = Family(paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arxiv="2010.11929")
ABLATION = Family(paper=f"{VIT.paper}, appendices D.3 and D.4", arxiv=VIT.arxiv)
POST_NORM = Family(paper="Attention Is All You Need, section 3.1, on patches", arxiv="1706.03762")

_CIFAR = {"img_size": 32, "patch_size": 4, "num_classes": 10}

VARIANTS = (
    # torch's nn.TransformerEncoderLayer as it is by default: norms after the branches, ReLU, 2048 hidden units.
    POST_NORM.row(
        "vit_cifar10_patch4_32",
        2_388_362,
        **_CIFAR,
        embed_dim=128,
        depth=4,
        num_heads=4,
        mlp_ratio=2048 / 128,
        block="post_norm",
        mlp="relu",
    ),
    VIT.row("vit_tiny_patch4_32", 5_362_762, **TINY, **_CIFAR),
    VIT.row("vit_small_patch4_32", 21_342_346, **SMALL, **_CIFAR),
    ABLATION.row("vit_base_patch16_avg_224", 86_415_592, **BASE, class_token=False, pos_embed="none", pool="avg"),
)
ALIASES = {"vit_cifar10": "vit_cifar10_patch4_32"}
