"""The papers of sets of weights, where they are not the one that the sizes are from."""

from __future__ import annotations

from fnmatch import fnmatchcase

# ('variant.tag', title, arXiv number), the first that matches. EVA has tags of these names with papers of their own.
PAPERS = (
    (
        "vit_*.augreg*",
        "How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers",
        "2106.10270",
    ),
    ("vit_*.dino", "Emerging Properties in Self-Supervised Vision Transformers", "2104.14294"),
    ("vit_*.mae", "Masked Autoencoders Are Scalable Vision Learners", "2111.06377"),
    (
        "vit_*.sam_in1k",
        "When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations",
        "2106.01548",
    ),
    ("vit_*.bamboo", "Bamboo: Building Mega-Scale Vision Dataset Continually with Human-Machine Synergy", "2203.07845"),
    ("vit_*.openai*", "Learning Transferable Visual Models From Natural Language Supervision", "2103.00020"),
    ("vit_*.laion*", "Reproducible scaling laws for contrastive language-image learning", "2212.07143"),
    ("vit_*.datacomp*", "DataComp: In search of the next generation of multimodal datasets", "2304.14108"),
    ("vit_*.metaclip2*", "Meta CLIP 2: A Worldwide Scaling Recipe", "2507.22062"),
    ("vit_*.metaclip_*", "Demystifying CLIP Data", "2309.16671"),
    ("vit_*.dfn*", "Data Filtering Networks", "2309.17425"),
    (
        "vit_*.v2_webli*",
        "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense "
        "Features",
        "2502.14786",
    ),
    ("vit_*.pali_*", "PaliGemma: A versatile 3B VLM for transfer", "2407.07726"),
    ("vit_*.pali2_*", "PaliGemma 2: A Family of Versatile VLMs for Transfer", "2412.03555"),
    ("vit_*.eupe_*", "Efficient Universal Perception Encoder", "2603.22387"),
    ("vit_*.imagenet1k_swag*", "Revisiting Weakly Supervised Pre-Training of Visual Perception Models", "2201.08371"),
)


def paper_of(name: str) -> tuple[str, str] | None:
    """Return (title, arXiv number) of the own paper of a 'variant.tag', or None when it is its variant's."""
    for pattern, title, arxiv in PAPERS:
        if fnmatchcase(name, pattern):
            return title, arxiv
    return None
