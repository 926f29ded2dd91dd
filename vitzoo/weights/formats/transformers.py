"""Hugging Face transformers: a directory of config.json and weights, in the names of any version from 4 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing
from vitzoo.weights.formats.hf.clip import Clip, Siglip
from vitzoo.weights.formats.hf.common import Family, images_of, preprocess_of
from vitzoo.weights.formats.hf.dinov2 import Dinov2
from vitzoo.weights.formats.hf.dinov3 import Dinov3
from vitzoo.weights.formats.hf.vit import ViT
from vitzoo.weights.report import Note
from vitzoo.weights.source import IMAGES_FILE, Source

FAMILIES: tuple[Family, ...] = (ViT(), Dinov2(), Dinov3(), Clip(), Siglip())
MODEL_TYPES = tuple(name for family in FAMILIES for name in family.model_types)


class Transformers:
    """ViT, DeiT, ViTMAE, Dinov2, Dinov2WithRegisters, DINOv3ViT, CLIPVision and SiglipVision of transformers."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        if source.config is not None and "model_type" in source.config:
            kind = source.config["model_type"]
            known = f"model_type {kind!r} is not one of {', '.join(MODEL_TYPES)}"
            return [] if kind in MODEL_TYPES else [known]
        if any(family.bears_signs(source.state) for family in FAMILIES):
            return []
        return ["no config.json with a 'model_type', and no names of one of its families"]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        config = dict(source.config or {})
        kind = config.get("model_type")
        family = _family_of(source, kind)
        if isinstance(config.get("vision_config"), dict):
            # A model of two towers: newer files leave out what is the default, and 12 is that of both families.
            config = {"num_attention_heads": 12, **config["vision_config"]}
        reading = family.read(dict(source.state), config, hints)
        preprocess = preprocess_of(source.images)
        if preprocess is not None:
            return replace(reading, preprocess=preprocess)
        why = "the family's own, for lack of a preprocessor_config.json"
        note = Note(action="set", what=f"images of mean {family.images.mean}", why=why)
        return replace(reading, preprocess=family.images, notes=(*reading.notes, note))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights in the layout of the family that has a place for the model, with both JSON files."""
        if config.rope.name != "none":
            family, processor = "dinov3_vit", "DINOv3ViTImageProcessorFast"
        elif config.pre_norm:
            family, processor = "clip_vision_model", "CLIPImageProcessor"
        elif not config.class_token:
            family, processor = "siglip_vision_model", "SiglipImageProcessor"
        elif config.init_values is not None or config.reg_tokens:
            family, processor = "dinov2", "BitImageProcessor"
        else:
            family, processor = "vit", "ViTImageProcessor"
        writing = _of_type(family).write(state, config)
        images = images_of(preprocess, img_size=config.img_size, in_chans=config.in_chans, processor=processor)
        return replace(writing, files={**writing.files, IMAGES_FILE: images})


def _family_of(source: Source, kind: str | None) -> Family:
    if kind is not None and kind not in MODEL_TYPES:
        raise CheckpointError(
            f"transformers' model_type {kind!r} is none that vitzoo reads (possible: {', '.join(MODEL_TYPES)})"
        )
    if kind is not None:
        return _of_type(kind)
    for family in FAMILIES:
        if family.bears_signs(source.state):
            return family
    raise CheckpointError(
        f"the weights of {source.name} have the names of no family of transformers that vitzoo reads "
        f"(possible: {', '.join(MODEL_TYPES)}), and no config.json that names one"
    )


def _of_type(kind: str) -> Family:
    return next(family for family in FAMILIES if kind in family.model_types)
