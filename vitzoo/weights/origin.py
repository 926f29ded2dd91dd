"""From a source of weights to their provenance: as the files, vitzoo's tables or the hub's card state it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vitzoo.catalog import checkpoint_of, find_model
from vitzoo.errors import LicenseWarning
from vitzoo.provenance import Provenance
from vitzoo.variants.table import Tag
from vitzoo.weights.source import CARD_FILE, HUB_PREFIX, Source

# Where a safetensors file, of whatever format, keeps its provenance.
METADATA_KEY = "vitzoo.provenance"


def origin_of(source: Source, name: str) -> Provenance:
    """Return where weights come from.

    Args:
        source: the weights. What their file itself says comes first, as vitzoo writes it.
        name: the model's name; one with a '.tag' says that the weights are those of the tag.

    Raises:
        CheckpointError: what the file says of its provenance is damaged.
    """
    told = _in_file(source)
    if told is not None:
        return told
    on_hub = source.name.startswith(HUB_PREFIX)
    origin = source.name.partition("@")[0] if on_hub else source.name
    known = checkpoint_of(origin)
    if known is None and "." in name:
        found = find_model(name)
        known = None if found.tag is None else (found.name, found.tag)
    if not on_hub and "://" not in origin:
        # A path of this machine is nobody else's business.
        origin = Path(origin).name
    if known is not None:
        return _of_tag(*known, source=origin, revision=source.revision)
    if on_hub:
        license, gated = _on_card(source)
        url = f"https://huggingface.co/{origin.removeprefix(HUB_PREFIX)}"
        return Provenance(source=origin, revision=source.revision, license=license, gated=gated, url=url)
    # timm keeps the licence there. The file may be anyone's, so nothing of its form is taken for granted.
    stated = (source.config or {}).get("pretrained_cfg")
    license = stated.get("license") if isinstance(stated, dict) else None
    return Provenance(source=origin, license=license if isinstance(license, str) else None)


def metadata_of(model: Any) -> dict[str, str]:
    """Return what a safetensors file with this model's weights is to say of them."""
    provenance = getattr(model, "provenance", None)
    return {} if provenance is None else {METADATA_KEY: provenance.to_json()}


def _of_tag(checkpoint: str, tag: Tag, *, source: str, revision: str | None) -> Provenance:
    return Provenance(
        source=source,
        revision=revision,
        checkpoint=checkpoint,
        license=tag.license,
        url=tag.url,
        paper=tag.paper,
        arxiv=tag.arxiv,
        gated=tag.gated,
    )


def _in_file(source: Source) -> Provenance | None:
    from safetensors import safe_open

    for file in source.files:
        if file.path.suffix == ".safetensors":
            with safe_open(file.path, "pt") as opened:
                text = (opened.metadata() or {}).get(METADATA_KEY)
            if text is not None:
                return Provenance.from_json(text)
    return None


def _on_card(source: Source) -> tuple[str | None, bool]:
    """Return (licence, whether it is gated) as the repository's card states them."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    card = source.files[0].path.parent / CARD_FILE
    if not card.is_file():
        return None, False
    try:
        stated = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        words = f"the card of {source.name} has damaged metadata, so the licence of its weights is not known: {error}"
        warnings.warn(words, LicenseWarning, stacklevel=2)
        return None, False
    license = stated.get("license")
    # 'other' stands for a licence that the hub has no name for.
    license = stated.get("license_name", license) if license == "other" else license
    return (str(license) if license else None), any(str(key).startswith("extra_gated") for key in stated)
