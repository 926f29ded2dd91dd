"""The model card of a repository: what the model is, how to load it, where its weights come from, their licence."""

from __future__ import annotations

from typing import Any

from vitzoo.config import ViTConfig
from vitzoo.licenses import PERMISSIVE, kind_of
from vitzoo.preprocess import Preprocess
from vitzoo.provenance import Provenance
from vitzoo.weights.source import HUB_PREFIX

_USE_VITZOO = 'import vitzoo\n\nmodel = vitzoo.load("hf-hub:{repository}").eval()'
_USE_TRANSFORMERS = 'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{repository}").eval()'

# By format: the hub's name of the library that reads it whole, and what a user writes.
LIBRARIES = {
    "vitzoo": ("vitzoo", _USE_VITZOO),
    "transformers": ("transformers", _USE_TRANSFORMERS),
    "open_clip": ("vitzoo", _USE_VITZOO),
}

_SHOWN = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp", "norm", "pool")


def model_card(model: Any, repository: str, *, format: str, license: str | None) -> str:
    """Return the text of README.md, with the metadata that the hub reads.

    Args:
        model: a model of vitzoo's; what it does not say of itself is left out.
        repository: 'org/name'.
        format: a key of `LIBRARIES`.
        license: the licence of these weights; None when none is stated.
    """
    import yaml

    provenance: Provenance | None = getattr(model, "provenance", None)
    config = getattr(model, "config", None)
    library, use = LIBRARIES[format]
    count = sum(parameter.numel() for parameter in model.parameters())
    name = model.model_name or (provenance.checkpoint if provenance else None) or "a Vision Transformer"
    metadata = _metadata(config, provenance, library=library, license=license)
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {repository}",
        f"`{name}`, {count / 1e6:.2f} M parameters, written by vitzoo in the format `{format}`.",
        f"## Use\n\n```python\n{use.format(repository=repository)}\n```",
        _origin(provenance, license),
    ]
    if isinstance(config, ViTConfig):
        sections.append(_table("Settings", [(field, str(getattr(config, field))) for field in _SHOWN]))
    preprocess = getattr(model, "preprocess", None)
    if isinstance(preprocess, Preprocess):
        sections.append(_table("Images", [(key, str(value)) for key, value in preprocess.to_dict().items()]))
    return "\n\n".join(sections) + "\n"


def _metadata(config: Any, provenance: Provenance | None, *, library: str, license: str | None) -> dict[str, Any]:
    classes = getattr(config, "num_classes", 0)
    metadata: dict[str, Any] = {
        "library_name": library,
        "tags": ["vitzoo", "vision-transformer"],
        "pipeline_tag": "image-classification" if classes else "image-feature-extraction",
    }
    if license is not None:
        # The hub takes the names that it knows, and 'other' with a name of one's own.
        named = kind_of(license) == PERMISSIVE or license.startswith("cc-")
        metadata |= {"license": license} if named else {"license": "other", "license_name": license}
        if not named and provenance is not None and provenance.url is not None:
            metadata["license_link"] = provenance.url
    if provenance is not None and provenance.source.startswith(HUB_PREFIX):
        metadata["base_model"] = provenance.source.removeprefix(HUB_PREFIX)
    return metadata


def _origin(provenance: Provenance | None, license: str | None) -> str:
    rows = [("licence", license or "none is stated")]
    if provenance is not None:
        of = "weights they started from"
        rows += [
            (label, value)
            for label, value in (
                (of, f"`{provenance.source}`"),
                ("commit", provenance.revision),
                ("checkpoint in vitzoo", provenance.checkpoint and f"`{provenance.checkpoint}`"),
                ("licence of those", provenance.license),
                ("address of those", provenance.url),
                ("paper", provenance.arxiv and f"[{provenance.paper}](https://arxiv.org/abs/{provenance.arxiv})"),
            )
            if value
        ]
    return _table("Weights", rows)


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows)])
