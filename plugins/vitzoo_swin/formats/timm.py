"""timm's names, which are the model's own; and the authors' own files, which timm reads too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.labels import labels_of
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing
from vitzoo.weights.formats.names import drop
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source
from vitzoo_swin.formats.common import (
    ASK,
    BUFFERS,
    SCALE,
    TABLE,
    infer,
    model_of,
    padding_notes,
    require,
    written_config,
)
from vitzoo_swin.sizes import SIZES

FORMAT = "swin/timm"
# The authors have the merging at the end of a stage, so that the first stage has one and the last none.
_AUTHORS = "layers.0.downsample.reduction.weight"
_BY_TIMM = {size.timm: size for size in SIZES}
# timm's arguments with another name here, and those that say how to run rather than what to compute.
_RUN = {"strict_img_size", "weight_init", "global_pool"}


class Timm:
    """timm's SwinTransformer and SwinTransformerV2. A directory's config.json names the architecture."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        first = "layers.0.blocks.0."
        needed = ("patch_embed.proj.weight", f"{first}attn.qkv.weight", f"{first}mlp.fc1.weight")
        reasons = [f"no {name}" for name in needed if name not in source.state]
        if not {f"{first}{TABLE}", f"{first}{SCALE}"} & set(source.state):
            reasons.append(f"neither {first}{TABLE} nor {first}{SCALE}")
        if source.config is not None and "architecture" not in source.config:
            reasons.append("config.json names no 'architecture'")
        return reasons

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under the model's names."""
        state = dict(source.state)
        notes = drop(state, BUFFERS, "the model computes it")
        if _AUTHORS in state:
            state = _from_authors(state)
            why = "the authors' names: merging at the end of a stage, the classifier as head"
            notes.append(Note(action="converted", what="layers.*.downsample", why=why))
        version, settings = infer(state)
        config = source.config or {}
        images = config.get("pretrained_cfg", {})
        size = _BY_TIMM.get(config.get("architecture", ""))
        if size is not None:
            told = size.config.to_dict()
            if len(told["depths"]) == len(settings["depths"]):
                settings = {
                    name: told[name] for name in ("img_size", "window_size", "pretrained_window_sizes")
                } | settings
        if "img_size" not in settings and "input_size" in images:
            settings["img_size"] = tuple(images["input_size"][-2:])
        settings |= _arguments(config.get("model_args", {}))
        known = {**settings, **hints}
        needed = ("img_size", "window_size")
        own = {item.name: images[item.name] for item in fields(Preprocess) if item.name in images}
        return Reading(
            state=state,
            settings=settings,
            unknown={name: ASK for name in needed if name not in settings},
            model=model_of(version, known),
            preprocess=Preprocess(**own) if own else None,
            labels=labels_of(config.get("label_names", images.get("label_names"))),
            notes=tuple(notes),
        )

    def write(self, state: Mapping[str, Tensor], config: Mapping[str, Any], preprocess: Preprocess) -> Writing:
        """Return the weights under timm's names."""
        settings = written_config(config, state)
        require(settings, FORMAT, head=False)
        return Writing(state=dict(state), notes=padding_notes(settings, "timm", pad_first=False))


def _from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)
        result[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = tensor
    return result


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's arguments as settings."""
    result = {name: value for name, value in arguments.items() if name not in _RUN}
    if "global_pool" in arguments:
        result["pool"] = arguments["global_pool"] or "none"
    known = {item.name for item in fields(type(SIZES[0].config))} - {"version"}
    if unknown := sorted(set(result) - known):
        raise CheckpointError(f"config.json has model_args that no Swin Transformer of vitzoo's has: {unknown}")
    return result
