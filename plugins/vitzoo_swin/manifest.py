"""What the plugin brings, by name. Imports no torch."""

from __future__ import annotations

from vitzoo import Registrar
from vitzoo_swin.sizes import ALIASES, ANY, LICENSE, PAPERS, SIZES, TEST_CONFIG


def register(registrar: Registrar) -> None:
    """Register the models and the formats of their weights."""
    registrar.require_api(1)
    for size in (*SIZES, *ANY):
        paper, arxiv = PAPERS[size.config.version]
        registrar.add(
            "model",
            size.name,
            size,
            doc=f"{paper} (arXiv {arxiv})" if size in SIZES else f"any Swin Transformer of version {size.name[1]}",
            license=LICENSE,
            paper=paper,
            arxiv=arxiv,
            test_config=TEST_CONFIG,
        )
    for alias, name in ALIASES.items():
        registrar.alias("model", alias, name)
    # With the padding that a library has; of models with another, the difference is a note.
    pads: dict[str, dict[str, bool]] = {
        "timm": {},
        "torchvision": {"always_partition": True, "pad_first": True},
        "transformers": {"pad_first": True},
    }
    for name, target, doc in (
        ("timm", "timm:Timm", "timm's SwinTransformer and SwinTransformerV2, and the authors' own files"),
        ("torchvision", "torchvision:Torchvision", "torchvision's swin_t, swin_v2_t and their like"),
        ("transformers", "transformers:Transformers", "Hugging Face: Swin and Swinv2"),
    ):
        registrar.add(
            "weights", name, f"vitzoo_swin.formats.{target}", doc=doc, models="swin/*", test_config=pads[name]
        )
