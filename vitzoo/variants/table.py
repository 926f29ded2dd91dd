"""What a row of the tables of variants is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Tag:
    """One set of weights of a variant, with what belongs to it besides.

    Args:
        preprocess: what the weights expect their images to be.
        license: SPDX identifier, or the name of the licence when it has none.
        source: where the weights come from: a Hugging Face repository or an address.
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
        arxiv: the paper's arXiv number, or '' when it is not there.
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
