"""DINOv3's own files: registers are `storage_tokens`, and a mask says which biases of q, k and v are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, norm_of, refuse, require
from vitzoo.weights.formats.infer import infer
from vitzoo.weights.formats.names import Names, depth_of, drop, with_k_bias
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

FORMAT = "dinov3"
BASE = 100.0
_BLOCK = {name: name for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "ls1", "ls2")}
_ROOT = {
    "cls_token": "cls_token",
    "reg_token": "storage_tokens",
    "mask_token": "mask_token",
    "patch_embed.proj": "patch_embed.proj",
    "norm": "norm",
}
PLAIN = Names(root=_ROOT, block="blocks.{i}.", inner={**_BLOCK, "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"})
GATED = Names(
    root=_ROOT,
    block="blocks.{i}.",
    inner={**_BLOCK, "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"},
)
_IMAGES = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=1.0, crop_mode="squash", interpolation="bilinear")


class Dinov3:
    """The DinoVisionTransformer of DINOv3: eps 1e-5, rope, the class token as output."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        needed = ("cls_token", "storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.weight")
        return [f"no {name}" for name in needed if name not in source.state]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        state = dict(source.state)
        periods = state.pop("rope_embed.periods", None)
        notes = drop(state, r"(local_)?cls_norm\..+", "a norm of the training's crops")
        notes += drop(state, r"projectors\..+", "it is of the training alone")
        notes += _without_masks(state)
        gated = "blocks.0.mlp.w1.weight" in state
        ours = (GATED if gated else PLAIN).to_ours(state)
        settings = infer(ours)
        heads, unknown = _heads(periods, settings["embed_dim"], hints)
        settings = {"mlp": "gelu", **settings, **heads, "norm": norm_of(1e-5), "rope": "dinov3"}
        settings |= {"pool": "token", "fc_norm": False}
        return Reading(state=ours, settings=settings, unknown=unknown, preprocess=_IMAGES, notes=tuple(notes))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under DINOv3's names."""
        require(
            config,
            FORMAT,
            num_classes=0,
            pos_embed="none",
            rope="dinov3",
            mlp=("gelu", "swiglu"),
            reg_tokens=config.reg_tokens,
            no_embed_class=(True, False),
            qkv_fused=True,
            init_values=config.init_values,
        )
        refuse(FORMAT, ["init_values=None: it has LayerScale"] if config.init_values is None else [])
        refuse(FORMAT, ["reg_tokens=0 (possible: 1 and more)"] if not config.reg_tokens else [])
        refuse(FORMAT, [f"norm={config.norm} (possible: eps 1e-5)"] if eps_of(config) != 1e-5 else [])
        refuse(FORMAT, [f"rope={config.rope} (possible: its defaults)"] if config.rope.args else [])
        full, notes = with_k_bias(state), []
        if "mask_token" not in full:
            full["mask_token"] = torch.zeros_like(full["cls_token"][0])
            notes.append(Note(action="added", what="mask_token", why="zeros; it is read only when patches are masked"))
        theirs = (GATED if config.mlp.name == "swiglu" else PLAIN).to_theirs(full, FORMAT)
        if config.qkv_bias == "qv":
            mask = torch.ones(3, config.embed_dim, dtype=full["cls_token"].dtype)
            mask[1] = 0
            theirs |= {f"blocks.{i}.attn.qkv.bias_mask": mask.flatten().clone() for i in range(config.depth)}
        theirs["rope_embed.periods"] = _periods(config.head_dim)
        return Writing(state=theirs, notes=tuple(notes))


def _without_masks(state: dict[str, Tensor]) -> list[Note]:
    """Take the masks of biases into account, in place: where the mask is 0 there is no bias."""
    masked = [name for name in state if name.endswith("attn.qkv.bias_mask")]
    for name in masked:
        prefix = name.removesuffix("qkv.bias_mask")
        bias = state.pop(f"{prefix}qkv.bias") * state.pop(name).nan_to_num(0.0)
        q, k, v = bias.chunk(3)
        if k.any():
            raise CheckpointError(f"{name} leaves k a bias, which vitzoo's masked form has not; nothing was loaded")
        state[f"{prefix}q_bias"], state[f"{prefix}v_bias"] = q, v
    if not masked:
        return []
    assert depth_of(state)
    return [
        Note(action="converted", what="blocks.*.attn.qkv.bias", why="q and v have one each, k is masked and has none")
    ]


def _heads(periods: Tensor | None, dim: int, hints: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the number of heads, which rope's periods tell: there are as many as a quarter of a head's width."""
    if periods is None:
        advice = "rope_embed.periods, which tells it, is absent: give num_heads=..."
        return ({"num_heads": hints["num_heads"]}, {}) if "num_heads" in hints else ({}, {"num_heads": advice})
    head_dim = 4 * len(periods)
    # Some files keep the periods in 16 bits.
    if dim % head_dim or not torch.allclose(periods.float(), _periods(head_dim), rtol=1e-2):
        raise CheckpointError(
            f"rope_embed.periods are not those of base {BASE:g} for heads that divide {dim}; nothing was loaded"
        )
    return {"num_heads": dim // head_dim}, {}


def _periods(head_dim: int) -> Tensor:
    return BASE ** (2 * torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 2))
