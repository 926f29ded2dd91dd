"""timm's names. Its `VisionTransformer` and vitzoo agree; its `Eva` calls LayerScale otherwise.

Names are changed and nothing is merged, so that the way back is exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from vitzoo.catalog import Found, find_model
from vitzoo.config import ViTConfig
from vitzoo.labels import labels_of
from vitzoo.preprocess import Preprocess
from vitzoo.variants.table import Variant
from vitzoo.weights.formats.base import Reading, Writing
from vitzoo.weights.formats.infer import infer
from vitzoo.weights.formats.names import drop
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

_EVA_SCALE = re.compile(r"(blocks\.\d+)\.gamma_([12])")
_OWN_SCALE = re.compile(r"(blocks\.\d+)\.ls([12])\.gamma")

# Names that timm does not have, of formats whose other names are timm's.
_FOREIGN = ("mask_token", "register_tokens", "storage_tokens", "decoder_embed.weight")
_ASK = "timm's names do not tell it: name the model, vitzoo.create(name, weights=...)"


class Timm:
    """timm's VisionTransformer and Eva. A directory's config.json names the architecture."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        needed = ("patch_embed.proj.weight", "blocks.0.norm1.weight")
        reasons = [f"no {name}" for name in needed if name not in source.state]
        reasons += [f"timm has no {name}" for name in _FOREIGN if name in source.state]
        if source.config is not None and "architecture" not in source.config:
            reasons.append("config.json names no 'architecture'")
        return reasons

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        notes: tuple[Note, ...] = ()
        state = from_timm(source.state)
        if any(_EVA_SCALE.fullmatch(name) for name in source.state):
            notes = (Note(action="converted", what="blocks.*.gamma_*", why="Eva's names of LayerScale"),)
        config = source.config or {}
        if "architecture" not in config:
            unknown = dict.fromkeys(("num_heads", "norm", "mlp"), _ASK)
            settings = infer(state, asked=hints.get("img_size")) if unknown.keys() <= hints.keys() else {}
            return Reading(state=state, settings=settings, unknown=unknown, notes=notes)
        found = find_model(config["architecture"])
        settings = dict(config.get("model_args", {}))
        if "mlp_ratio" in settings and found.config is not None and found.config.mlp.name == "swiglu_packed":
            # timm's is that of the packed layer, which is twice as wide.
            settings["mlp_ratio"] /= 2
        if "num_classes" in config:
            settings["num_classes"] = config["num_classes"]
        images = config.get("pretrained_cfg", {})
        own = {item.name: images[item.name] for item in fields(Preprocess) if item.name in images}
        return Reading(
            state=state,
            settings=settings,
            model=found.name,
            preprocess=Preprocess(**own) if own else None,
            labels=labels_of(config.get("label_names", images.get("label_names"))),
            notes=notes,
            assumed=_as_trained(found, images.get("tag")),
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under timm's names: those of `Eva` for a model with rope."""
        theirs = dict(state)
        notes = drop(theirs, "mask_token", "timm has none")
        return Writing(state=to_timm(theirs, eva=config.rope.name != "none"), notes=tuple(notes))


def _as_trained(found: Found, tag: str | None) -> tuple[Note, ...]:
    """Return a note when the weights were trained with other switches than timm runs them with."""
    tags = found.target.tags if isinstance(found.target, Variant) else {}
    row = tags.get(tag) if tag else None
    changes = {name: value for name, value in row.changes.items() if name != "num_classes"} if row else {}
    if not changes:
        return ()
    why = f"as timm computes; they were trained with {changes}: create('{found.name}.{tag}', weights=...) has that"
    return (Note(action="set", what=found.name, why=why),)


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under vitzoo's names; names that are already vitzoo's stay."""
    return {_EVA_SCALE.sub(r"\1.ls\2.gamma", name): tensor for name, tensor in state.items()}


def to_timm(state: Mapping[str, Tensor], *, eva: bool) -> dict[str, Tensor]:
    """Return the tensors under the names of timm's `VisionTransformer`, or of its `Eva`."""
    if not eva:
        return dict(state)
    return {_OWN_SCALE.sub(r"\1.gamma_\2", name): tensor for name, tensor in state.items()}
