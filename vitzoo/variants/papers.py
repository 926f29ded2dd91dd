"""The papers of sets of weights, where they are not the one that the sizes are from."""

from __future__ import annotations

from fnmatch import fnmatchcase

# (tag, title, arXiv number), the first that matches.
PAPERS = (
    ("augreg*", "How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers", "2106.10270"),
    ("dino", "Emerging Properties in Self-Supervised Vision Transformers", "2104.14294"),
    ("mae", "Masked Autoencoders Are Scalable Vision Learners", "2111.06377"),
    (
        "sam_in1k",
        "When Vision Transformers Outperform ResNets without Pre-training or Strong Data Augmentations",
        "2106.01548",
    ),
    ("bamboo", "Bamboo: Building Mega-Scale Vision Dataset Continually with Human-Machine Synergy", "2203.07845"),
    ("openai*", "Learning Transferable Visual Models From Natural Language Supervision", "2103.00020"),
    ("laion*", "Reproducible scaling laws for contrastive language-image learning", "2212.07143"),
    ("datacomp*", "DataComp: In search of the next generation of multimodal datasets", "2304.14108"),
    ("metaclip2*", "Meta CLIP 2: A Worldwide Scaling Recipe", "2507.22062"),
    ("metaclip_*", "Demystifying CLIP Data", "2309.16671"),
    ("dfn*", "Data Filtering Networks", "2309.17425"),
    ("imagenet1k_swag*", "Revisiting Weakly Supervised Pre-Training of Visual Perception Models", "2201.08371"),
)


def paper_of(tag: str) -> tuple[str, str] | None:
    """Return (title, arXiv number) of a tag's own paper, or None when it is its variant's."""
    for pattern, title, arxiv in PAPERS:
        if fnmatchcase(tag, pattern):
            return title, arxiv
    return None
