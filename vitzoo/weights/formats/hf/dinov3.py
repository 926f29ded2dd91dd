"""transformers' DINOv3ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, require
from vitzoo.weights.formats.hf.common import FORMAT, OWN_ACTIVATIONS, config_of, reading
from vitzoo.weights.formats.names import Names, fuse_qkv, split_qkv, without_prefix
from vitzoo.weights.report import Note

_ROOT = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings",
    "norm": "norm",
}
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.q_proj": "attention.q_proj",
    "attn.k_proj": "attention.k_proj",
    "attn.v_proj": "attention.v_proj",
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
PLAIN = Names(root=_ROOT, block="layer.{i}.", inner={**_BLOCK, "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"})
GATED = Names(
    root=_ROOT,
    block="layer.{i}.",
    inner={**_BLOCK, "mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"},
)


class Dinov3:
    """DINOv3ViTModel. Its pooled output is the class token; its rope is computed in float32 there."""

    model_types = ("dinov3_vit",)
    images = Preprocess(
        mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=1.0, crop_mode="squash", interpolation="bilinear"
    )

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's."""
        return "embeddings.patch_embeddings.weight" in state and "embeddings.register_tokens" in state

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        gated = any(".mlp.gate_proj." in name for name in state)
        if gated and config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise CheckpointError(
                f"hidden_act={config['hidden_act']!r} in a gated MLP has no part in vitzoo (possible: 'silu'); "
                "nothing was loaded"
            )
        ours = (GATED if gated else PLAIN).to_ours(without_prefix(state, "model."))
        if "mask_token" in ours:
            ours["mask_token"] = ours["mask_token"].reshape(1, -1)
        if "reg_token" in ours and not ours["reg_token"].shape[1]:
            del ours["reg_token"]
        _, notes = fuse_qkv(ours)
        theta = float(config.get("rope_theta", 100.0))
        return reading(
            ours,
            config,
            hints,
            eps=1e-5,
            activation="gelu",
            notes=notes,
            pool="token",
            fc_norm=False,
            rope="dinov3" if theta == 100.0 else ("dinov3", {"temperature": theta}),
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json."""
        require(
            config,
            FORMAT,
            rest=True,
            num_classes=0,
            pos_embed="none",
            rope="dinov3",
            mlp=(*OWN_ACTIVATIONS, "swiglu"),
            pool=("token", "avg"),
            reg_tokens=config.reg_tokens,
            no_embed_class=(True, False),
            qkv_bias=config.qkv_bias,
            proj_bias=config.proj_bias,
            init_values=config.init_values,
        )
        full, notes = dict(state), []
        mask = full.pop("mask_token", None)
        if mask is None:
            mask = torch.zeros_like(full["cls_token"])
            notes.append(Note(action="added", what="mask_token", why="zeros; it is read only when patches are masked"))
        full["mask_token"] = mask.reshape(1, 1, -1)
        if "reg_token" not in full:
            full["reg_token"] = full["cls_token"][:, :0]
        if config.init_values is None:
            ones = torch.ones_like(full["cls_token"][0, 0])
            full |= {f"blocks.{i}.ls{j}.gamma": ones.clone() for i in range(config.depth) for j in (1, 2)}
            notes.append(Note(action="added", what="blocks.*.ls*.gamma", why="ones; the model has no LayerScale"))
        if config.pool.name == "avg":
            notes.append(Note(action="dropped", what="pool=avg", why="pooler_output is the class token there"))
        gated = config.mlp.name == "swiglu"
        theirs = (GATED if gated else PLAIN).to_theirs(split_qkv(full), FORMAT)
        json = config_of(
            config,
            model_type="dinov3_vit",
            architecture="DINOv3ViTModel",
            intermediate_size=config.mlp_hidden_dim,
            num_register_tokens=config.reg_tokens,
            query_bias=config.qkv_bias is not False,
            key_bias=config.qkv_bias is True,
            value_bias=config.qkv_bias is not False,
            proj_bias=config.proj_bias,
            mlp_bias=config.proj_bias,
            use_gated_mlp=gated,
            layerscale_value=1.0 if config.init_values is None else config.init_values,
            rope_theta=float(config.rope.args.get("temperature", 100.0)),
            # Jitter and rescaling are of the training alone.
            pos_embed_rescale=None,
        )
        return Writing(state=theirs, files={"config.json": json}, notes=tuple(notes))
