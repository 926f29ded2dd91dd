"""transformers' Dinov2, without and with registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, refuse, require
from vitzoo.weights.formats.hf.common import (
    FORMAT,
    OWN_ACTIVATIONS,
    config_of,
    labels,
    old_spelling,
    reading,
    resizing_notes,
)
from vitzoo.weights.formats.hf.vit import ATTENTION, PATCHES
from vitzoo.weights.formats.names import Names, fuse_qkv, split_qkv, with_k_bias, without_prefix
from vitzoo.weights.formats.registers import fold_class_position, unfold_class_position
from vitzoo.weights.report import Note

_BLOCK = {
    **ATTENTION,
    "norm1": "norm1",
    "norm2": "norm2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_ROOT = {
    **PATCHES,
    "reg_token": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "norm": "layernorm",
    "head": "classifier",
}
PLAIN = Names(root=_ROOT, block="encoder.layer.{i}.", inner={**_BLOCK, "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"})
GATED = Names(
    root=_ROOT, block="encoder.layer.{i}.", inner={**_BLOCK, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
)


class Dinov2:
    """Dinov2Model, Dinov2WithRegistersModel, and their classifiers, whose head reads class token and mean together."""

    model_types = ("dinov2", "dinov2_with_registers")
    images = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=224 / 256)

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        return any(name.endswith("encoder.layer.0.layer_scale1.lambda1") for name in state)

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        state = without_prefix(state, "dinov2.", "dinov2_with_registers.")
        notes = _pack_gates(state)
        gated = any(".mlp.weights_in." in name for name in state)
        ours = (GATED if gated else PLAIN).to_ours(old_spelling(state))
        _, fused = fuse_qkv(ours)
        notes += fused + fold_class_position(ours)
        registers = "reg_token" in ours
        positions = ("learned", {} if registers else {"antialias": False})
        return reading(
            ours,
            config,
            hints,
            eps=1e-6,
            activation="gelu",
            notes=notes,
            pool="token",
            fc_norm=False,
            pos_embed=positions,
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json."""
        require(
            config,
            FORMAT,
            rest=True,
            num_classes=0,
            mlp=(*OWN_ACTIVATIONS, "swiglu_packed"),
            reg_tokens=config.reg_tokens,
            no_embed_class=True if config.reg_tokens else (True, False),
            init_values=config.init_values,
            qkv_bias=config.qkv_bias,
        )
        refuse(FORMAT, ["init_values=None: it has LayerScale"] if config.init_values is None else [])
        registers = config.reg_tokens > 0
        gated = config.mlp.name == "swiglu_packed"
        full, notes = unfold_class_position(state) if config.no_embed_class else (dict(state), [])
        if "mask_token" not in full:
            full["mask_token"] = torch.zeros_like(full["cls_token"][0])
            notes.append(Note(action="added", what="mask_token", why="zeros; it is read only when patches are masked"))
        theirs = (GATED if gated else PLAIN).to_theirs(split_qkv(with_k_bias(full)), FORMAT)
        json = config_of(
            config,
            model_type="dinov2_with_registers" if registers else "dinov2",
            architecture="Dinov2WithRegistersModel" if registers else "Dinov2Model",
            mlp_ratio=_ratio(config, gated),
            use_swiglu_ffn=gated,
            layerscale_value=config.init_values,
            qkv_bias=config.qkv_bias is not False,
            **({"num_register_tokens": config.reg_tokens} if registers else {}),
            **({"hidden_act": "gelu"} if gated else {}),
            **labels(0),
        )
        notes += resizing_notes(config, antialias=registers)
        return Writing(state=theirs, files={"config.json": json}, notes=tuple(notes))


def _ratio(config: ViTConfig, gated: bool) -> int:
    """Return the whole `mlp_ratio` from which transformers computes the hidden width: two thirds of it when gated."""
    dim, hidden = config.embed_dim, config.mlp_hidden_dim
    for ratio in range(1, 33):
        if hidden == ((int(dim * ratio * 2 / 3) + 7) // 8 * 8 if gated else dim * ratio):
            return ratio
    raise CheckpointError(
        f"format {FORMAT!r} has no place for this model: a {'gated ' if gated else ''}MLP of {hidden} at "
        f"embed_dim={dim}, for which Dinov2's config has no whole mlp_ratio"
    )


def _pack_gates(state: dict[str, Tensor]) -> list[Note]:
    """Put version 5's two layers of a gated MLP into the one that files have, the gate first."""
    found = [name for name in state if ".mlp.gate_proj." in name]
    for name in found:
        up = state.pop(name.replace("gate_proj", "up_proj"))
        state[name.replace("gate_proj", "weights_in")] = torch.cat([state.pop(name), up])
    for name in [name for name in state if ".mlp.down_proj." in name]:
        state[name.replace("down_proj", "weights_out")] = state.pop(name)
    if not found:
        return []
    return [Note(action="converted", what="blocks.*.mlp.fc1", why="gate and value in one layer, the gate first")]
