"""What a row of the tables of variants is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Tag:
    """One set of weights of a variant, with what belongs to it besides.

    Args:
        preprocess: what the weights expect their images to be.
        license: SPDX identifier, or the name of the licence when it has none.
        source: where the weights come from: a Hugging Face repository or an address. In a table, '{name}' and '{tag}'
            stand for the row's own, and '' for what the family has.
        changes: settings in which these weights differ from the variant: an activation, an eps, the classes.
    """

    preprocess: Preprocess
    license: str
    source: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


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
        license: licence of the family's public weights; 'apache-2.0' where there are none but ours to train.
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
        own = {
            tag: replace(weights, source=(weights.source or self.source).format(name=name, tag=tag))
            for tag, weights in (tags or {}).items()
        }
        return Variant(
            name=name,
            config=ViTConfig(**settings),
            params=params,
            paper=self.paper,
            arxiv=self.arxiv,
            preprocess=next(iter(own.values())).preprocess if own else self.preprocess,
            license=self.license,
            tags=own,
        )
