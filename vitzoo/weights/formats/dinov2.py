"""DINOv2's own files: timm's names, but for registers, gated MLPs and blocks in chunks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, refuse, require, square
from vitzoo.weights.formats.infer import heads_or_unknown, infer
from vitzoo.weights.formats.names import with_k_bias
from vitzoo.weights.formats.registers import fold_class_position, unfold_class_position
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

FORMAT = "dinov2"
# Every published size has heads of 64.
HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.(.+)")
_IN = (("register_tokens", "reg_token"), (".mlp.w12.", ".mlp.fc1."), (".mlp.w3.", ".mlp.fc2."))
_IMAGES = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=1.0)


class Dinov2:
    """The DinoVisionTransformer of DINOv2, with and without registers: eps 1e-6, exact GELU or packed SwiGLU."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        state = source.state
        reasons = [f"no {name}" for name in ("cls_token", "pos_embed", "mask_token") if name not in state]
        if not any(re.fullmatch(r"blocks\.0\.(0\.)?ls1\.gamma", name) for name in state):
            reasons.append("no blocks.0.ls1.gamma")
        if "decoder_embed.weight" in state or "storage_tokens" in state:
            reasons.append("it has a decoder, or storage_tokens")
        return reasons

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        state: dict[str, Tensor] = {}
        for name, tensor in source.state.items():
            name = _CHUNKED.sub(r"blocks.\1.\2", name)
            for theirs, ours in _IN:
                name = name.replace(theirs, ours)
            state[name] = tensor
        notes = fold_class_position(state)
        settings = infer(state, no_embed_class=True if "reg_token" in state else None)
        heads, unknown = heads_or_unknown(settings["embed_dim"], hints, HEADS)
        settings = {"mlp": "gelu", **settings, **heads, "norm": "layernorm", "pool": "token", "fc_norm": False}
        # Without registers the authors also add 0.1 to the size that they resize to, which no grid of ours has.
        settings["pos_embed"] = ("learned", {} if "reg_token" in state else {"antialias": False})
        return Reading(state=state, settings=settings, unknown=unknown, preprocess=_IMAGES, notes=tuple(notes))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under DINOv2's names, blocks in one chunk."""
        require(
            config,
            FORMAT,
            num_classes=0,
            mlp=("gelu", "swiglu_packed"),
            reg_tokens=config.reg_tokens,
            no_embed_class=True if config.reg_tokens else (True, False),
            init_values=config.init_values,
            qkv_fused=True,
        )
        square(config, FORMAT)
        refuse(FORMAT, ["init_values=None: it has LayerScale"] if config.init_values is None else [])
        refuse(FORMAT, [f"norm={config.norm} (possible: eps 1e-6)"] if eps_of(config) != 1e-6 else [])
        full, notes = unfold_class_position(state) if config.no_embed_class else (dict(state), [])
        if "mask_token" not in full:
            full["mask_token"] = torch.zeros_like(full["cls_token"][0])
            notes.append(Note(action="added", what="mask_token", why="zeros; it is read only when patches are masked"))
        theirs = {}
        for name, tensor in with_k_bias(full).items():
            for foreign, ours in _IN if config.mlp.name == "swiglu_packed" else _IN[:1]:
                name = name.replace(ours, foreign)
            theirs[name] = tensor
        return Writing(state=theirs, notes=tuple(notes))
