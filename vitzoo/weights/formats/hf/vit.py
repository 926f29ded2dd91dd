"""transformers' ViT, DeiT and the encoder of ViTMAE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing, require
from vitzoo.weights.formats.hf.common import (
    FORMAT,
    OWN_ACTIVATIONS,
    config_of,
    labels,
    old_spelling,
    reading,
    resizing_notes,
)
from vitzoo.weights.formats.names import Names, drop, fuse_qkv, split_qkv, with_k_bias, without_prefix
from vitzoo.weights.report import Note

ATTENTION = {
    "attn.q_proj": "attention.attention.query",
    "attn.k_proj": "attention.attention.key",
    "attn.v_proj": "attention.attention.value",
    "attn.proj": "attention.output.dense",
}
PATCHES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
}
NAMES = Names(
    root={**PATCHES, "dist_token": "embeddings.distillation_token", "norm": "layernorm", "head": "classifier"},
    block="encoder.layer.{i}.",
    inner={
        **ATTENTION,
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
)
DISTILLED = Names(
    root={**NAMES.root, "head": "cls_classifier", "head_dist": "distillation_classifier"},
    block=NAMES.block,
    inner=NAMES.inner,
)
# transformers resizes by a bicubic without antialiasing, when asked to by interpolate_pos_encoding=True.
POSITIONS = ("learned", {"antialias": False})


class ViT:
    """ViTModel, DeiTModel, ViTMAEModel, and their classifiers."""

    model_types = ("vit", "deit", "vit_mae")
    images = Preprocess(crop_pct=1.0, crop_mode="squash", interpolation="bilinear")

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        return any(
            re.fullmatch(r"(\w+\.)?(encoder\.layer|layers)\.0\.layernorm_before\.weight", name) for name in state
        )

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        state = without_prefix(state, "vit.", "deit.")
        notes = drop(state, r"pooler\..+", "vitzoo has no tanh pooler; pool='token' gives what it reads")
        notes += drop(state, r"decoder\..+", "the decoder of masked autoencoding")
        notes += drop(state, r"embeddings\.mask_token", "it stands in for masked patches while pretraining")
        distilled = "distillation_classifier.weight" in state
        on_disk = old_spelling({_from_memory(name): tensor for name, tensor in state.items()})
        ours = (DISTILLED if distilled else NAMES).to_ours(on_disk)
        _, fused = fuse_qkv(ours)
        pool = "distilled" if distilled else "token"
        return reading(
            ours,
            config,
            hints,
            eps=1e-12,
            activation="gelu",
            notes=notes + fused,
            pool=pool,
            fc_norm=False,
            pos_embed=POSITIONS,
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json, as ViT or, with a distillation token, as DeiT."""
        require(
            config,
            FORMAT,
            rest=True,
            mlp=tuple(OWN_ACTIVATIONS),
            # DeiTModel gives the class token; the mean with the other is taken of the two classifiers.
            pool=("token", "distilled") if config.num_classes else "token",
            dist_token=config.dist_token,
            qkv_bias=config.qkv_bias,
        )
        kind = "deit" if config.dist_token else "vit"
        title = "DeiT" if config.dist_token else "ViT"
        classifier = "ForImageClassification" + ("WithTeacher" if config.pool.name == "distilled" else "")
        state = dict(state)
        notes = drop(state, "mask_token", f"{title}'s files have none")
        table = DISTILLED if config.pool.name == "distilled" else NAMES
        theirs = table.to_theirs(split_qkv(with_k_bias(state)), FORMAT)
        if config.num_classes:
            theirs = {name if "classifier" in name else f"{kind}.{name}": tensor for name, tensor in theirs.items()}
        else:
            notes.append(Note(action="dropped", what="pooler", why="there is none: load with add_pooling_layer=False"))
        json = config_of(
            config,
            model_type=kind,
            architecture=title + (classifier if config.num_classes else "Model"),
            intermediate_size=config.mlp_hidden_dim,
            qkv_bias=config.qkv_bias is not False,
            **labels(config.num_classes),
        )
        return Writing(
            state=theirs, files={"config.json": json}, notes=(*notes, *resizing_notes(config, antialias=False))
        )


def _from_memory(name: str) -> str:
    """Return the name that files have, for one that version 5 has in memory."""
    name = re.sub(r"^layers\.(\d+)\.", r"encoder.layer.\1.", name)
    name = re.sub(r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense.", name)
    return re.sub(r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense.", name)
