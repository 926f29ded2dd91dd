"""transformers' image towers of CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, refuse, require
from vitzoo.weights.formats.hf.common import FORMAT, OWN_ACTIVATIONS, config_of, reading, resizing_notes
from vitzoo.weights.formats.names import Names, drop, fuse_qkv, split_qkv, with_k_bias, without_prefix
from vitzoo.weights.report import Note

_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_ROOT = {"patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm"}
CLIP_NAMES = Names(
    root={
        **_ROOT,
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
        "norm_pre": "pre_layrnorm",
        "head": "visual_projection",
    },
    block="encoder.layers.{i}.",
    inner=_BLOCK,
)
SIGLIP_NAMES = Names(
    root={
        **_ROOT,
        "pos_embed": "embeddings.position_embedding.weight",
        "attn_pool.latent": "head.probe",
        "attn_pool.proj": "head.attention.out_proj",
        "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp": "head.mlp",
        "attn_pool.mlp.fc1": "head.mlp.fc1",
        "attn_pool.mlp.fc2": "head.mlp.fc2",
    },
    block="encoder.layers.{i}.",
    inner=_BLOCK,
)
POSITIONS = ("learned", {"antialias": False})


class Clip:
    """CLIPVisionModel, with or without its projection, and the image tower of a CLIPModel."""

    model_types = ("clip_vision_model", "clip")
    images = Preprocess(mean=CLIP_MEAN, std=CLIP_STD, crop_pct=1.0)

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        return any(name.endswith("embeddings.class_embedding") for name in state)

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        notes = _without_text(state)
        ours = CLIP_NAMES.to_ours(without_prefix(state, "vision_model."))
        notes += drop(ours, r"embeddings\.position_ids", "a buffer of numbers in order")
        if "cls_token" in ours:
            ours["cls_token"] = ours["cls_token"].reshape(1, 1, -1)
        if "pos_embed" in ours:
            ours["pos_embed"] = ours["pos_embed"][None]
        _, fused = fuse_qkv(ours)
        notes += fused
        if "head.weight" in ours:
            ours["head.bias"] = torch.zeros_like(ours["head.weight"][:, 0])
            notes.append(Note(action="added", what="head.bias", why="zeros; the projection has none"))
        return reading(
            ours,
            config,
            hints,
            eps=1e-5,
            activation="quick_gelu",
            notes=notes,
            pool="token",
            fc_norm=False,
            pos_embed=POSITIONS,
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json."""
        require(config, FORMAT, rest=True, mlp=tuple(OWN_ACTIVATIONS), mask_token=False, pre_norm=True)
        full = dict(state)
        bias = full.pop("head.bias", None)
        if bias is not None and bias.any():
            refuse(FORMAT, ["head.bias is not 0, and the projection of CLIP has none"])
        full["cls_token"], full["pos_embed"] = full["cls_token"][0, 0], full["pos_embed"][0]
        theirs = CLIP_NAMES.to_theirs(split_qkv(with_k_bias(full)), FORMAT)
        theirs = {
            name if name.startswith("visual_projection") else f"vision_model.{name}": tensor
            for name, tensor in theirs.items()
        }
        json = config_of(
            config,
            model_type="clip_vision_model",
            architecture="CLIPVisionModelWithProjection" if config.num_classes else "CLIPVisionModel",
            intermediate_size=config.mlp_hidden_dim,
            **({"projection_dim": config.num_classes} if config.num_classes else {}),
        )
        return Writing(state=theirs, files={"config.json": json}, notes=resizing_notes(config, antialias=False))


class Siglip:
    """SiglipVisionModel, with or without its pooling head, and the image tower of a SiglipModel."""

    model_types = ("siglip_vision_model", "siglip")
    images = Preprocess(crop_pct=1.0, crop_mode="squash")

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        patches = any(name.endswith("embeddings.patch_embedding.weight") for name in state)
        return patches and not any(name.endswith("embeddings.class_embedding") for name in state)

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        notes = _without_text(state)
        ours = SIGLIP_NAMES.to_ours(without_prefix(state, "vision_model."))
        notes += drop(ours, r"embeddings\.position_ids", "a buffer of numbers in order")
        if "pos_embed" in ours:
            ours["pos_embed"] = ours["pos_embed"][None]
        _, fused = fuse_qkv(ours)
        notes += fused
        for kind in ("weight", "bias"):
            packed = ours.pop(f"head.attention.in_proj_{kind}", None)
            if packed is not None:
                q, k, v = packed.chunk(3)
                ours |= {f"attn_pool.q.{kind}": q, f"attn_pool.kv.{kind}": torch.cat([k, v])}
        pool = "map" if "attn_pool.latent" in ours else "none"
        if pool == "map":
            why = "q and kv as two projections"
            notes.append(Note(action="converted", what="attn_pool", why=why))
        return reading(
            ours,
            config,
            hints,
            eps=1e-6,
            activation="gelu_pytorch_tanh",
            notes=notes,
            pool=pool,
            fc_norm=False,
            pos_embed=POSITIONS,
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json."""
        require(
            config,
            FORMAT,
            rest=True,
            num_classes=0,
            mlp=tuple(OWN_ACTIVATIONS),
            pool=("map", "none"),
            class_token=False,
            mask_token=False,
            no_embed_class=(True, False),
        )
        full = dict(state)
        full["pos_embed"] = full["pos_embed"][0]
        packed = {
            f"vision_model.head.attention.in_proj_{kind}": torch.cat(
                [full.pop(f"attn_pool.q.{kind}"), full.pop(f"attn_pool.kv.{kind}")]
            )
            for kind in ("weight", "bias")
            if config.pool.name == "map"
        }
        theirs = SIGLIP_NAMES.to_theirs(split_qkv(with_k_bias(full)), FORMAT)
        json = config_of(
            config,
            model_type="siglip_vision_model",
            architecture="SiglipVisionModel",
            intermediate_size=config.mlp_hidden_dim,
            vision_use_head=config.pool.name == "map",
        )
        return Writing(
            state={f"vision_model.{name}": tensor for name, tensor in theirs.items()} | packed,
            files={"config.json": json},
            notes=resizing_notes(config, antialias=False),
        )


def _without_text(state: dict[str, Tensor]) -> list[Note]:
    text = r"text_model\..+|text_projection\..+|logit_scale|logit_bias"
    return drop(state, text, "the text tower; vitzoo holds image models")
