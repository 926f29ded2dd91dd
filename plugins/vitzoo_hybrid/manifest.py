"""What the plugin brings, by name. Imports no torch."""

from __future__ import annotations

from vitzoo import Registrar
from vitzoo_hybrid.variants import ALIASES, VARIANTS


def register(registrar: Registrar) -> None:
    """Register the patch embedding and the models that begin with it."""
    registrar.require_api(1)
    registrar.add(
        "patch_embed",
        "resnetv2",
        "vitzoo_hybrid.resnetv2:ResNetV2Patches",
        doc="patches of a ResNetV2's features (arXiv 1912.11370)",
        # The stem alone: what a whole ResNet sees at one place is larger than the tests' images.
        test_args={"layers": (), "stem_channels": 32},
    )
    for variant in VARIANTS:
        registrar.add("model", variant.name, variant, doc=f"{variant.paper} (arXiv {variant.arxiv})")
    for alias, name in ALIASES.items():
        registrar.alias("model", alias, name)
