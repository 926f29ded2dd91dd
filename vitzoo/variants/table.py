"""What a row of the tables of variants is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.preprocess import Preprocess
from vitzoo.variants.papers import paper_of


@dataclass(frozen=True, kw_only=True)
class Tag:
    """One set of weights of a variant, with what belongs to it besides.

    Args:
        preprocess: what the weights expect their images to be.
        license: SPDX identifier, or the name of the licence when it has none.
        source: where the weights come from: a Hugging Face repository or an address. In a table, '{name}' and '{tag}'
            stand for the row's own, and '' for what the family has.
        changes: settings in which these weights differ from the variant: an activation, an eps, the classes.
        gated: whether their host asks for the acceptance of conditions before it hands them out.
        paper: title; that of the variant where the table does not say so.
        arxiv: the paper's arXiv number.
    """

    preprocess: Preprocess
    license: str
    source: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False
    paper: str = ""
    arxiv: str = ""

    @property
    def weights(self) -> str | None:
        """What `create(weights="default")` reads: 'hf-hub:org/name' or an address; None where it reads no such file."""
        if not self.source.startswith("https://"):
            return f"hf-hub:{self.source}"
        return self.source if self.source.endswith(".pth") else None

    @property
    def url(self) -> str:
        """The address where people find the weights and their licence."""
        return self.source if self.source.startswith("https://") else f"https://huggingface.co/{self.source}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One size of one family.

    Args:
        name: the model name, timm's where timm has the model.
        config: its settings.
        params: number of parameters with the config's own head.
        paper: title and, where there is one, the table or section that gives the size.
        arxiv: the paper's arXiv number.
        preprocess: what its images are expected to be, unless a tag says otherwise.
        license: licence of its default weights; where there are none, of its family's.
        tags: {tag: Tag} of its public weights; the first is the default.
    """

    name: str
    config: ViTConfig
    params: int
    paper: str
    arxiv: str
    preprocess: Preprocess = field(default_factory=Preprocess)
    license: str = "apache-2.0"
    tags: Mapping[str, Tag] = field(default_factory=dict)

    @property
    def default_tag(self) -> str | None:
        """The tag that `create(name, weights="default")` reads, or None."""
        return next((name for name, tag in self.tags.items() if tag.weights is not None), None)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the rows of a table share.

    Args:
        paper: title and, where there is one, the table or section that gives the sizes.
        arxiv: the paper's arXiv number.
        license: licence of the family's public weights.
        preprocess: what a variant without public weights expects its images to be.
        source: where the weights of a tag come from that does not say so itself.
    """

    paper: str
    arxiv: str
    license: str = "apache-2.0"
    preprocess: Preprocess = field(default_factory=Preprocess)
    source: str = "timm/{name}.{tag}"

    def row(self, name: str, params: int, tags: Mapping[str, Tag] | None = None, /, **settings: Any) -> Variant:
        """Return the variant of one row; its images are those of its first tag.

        Args:
            name: the model name.
            params: number of parameters with the settings' own head.
            tags: {tag: Tag} of its public weights, the default first; None when there are none.
            **settings: what it sets in its ViTConfig.
        """
        own = {}
        for tag, weights in (tags or {}).items():
            paper, arxiv = paper_of(f"{name}.{tag}") or (self.paper, self.arxiv)
            source = (weights.source or self.source).format(name=name, tag=tag)
            own[tag] = replace(weights, source=source, paper=paper, arxiv=arxiv)
        first = next(iter(own.values()), None)
        return Variant(
            name=name,
            config=ViTConfig(**settings),
            params=params,
            paper=self.paper,
            arxiv=self.arxiv,
            preprocess=first.preprocess if first else self.preprocess,
            license=first.license if first else self.license,
            tags=own,
        )
