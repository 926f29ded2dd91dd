"""torchvision's VisionTransformer, in the names of any version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, refuse, require, square
from vitzoo.weights.formats.infer import heads_or_unknown, infer
from vitzoo.weights.formats.names import Names, drop, with_k_bias
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

FORMAT = "torchvision"
FIRST = "encoder.layers.encoder_layer_0.ln_1.weight"
NAMES = Names(
    root={
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "norm": "encoder.ln",
        "head": "heads.head",
    },
    block="encoder.layers.encoder_layer_{i}.",
    inner={
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.weight": "self_attention.in_proj_weight",
        "attn.qkv.bias": "self_attention.in_proj_bias",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    },
)
_OLD = re.compile(r"(encoder\.layers\.encoder_layer_\d+\.mlp)\.linear_([12])\.(weight|bias)")
_IMAGES = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=224 / 256, interpolation="bilinear")
_POSITIONS = {"antialias": False, "align_corners": True}


class Torchvision:
    """vit_b_16 and its like: eps 1e-6, exact GELU, positions resized corner on corner."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        return [f"no {name}" for name in (FIRST, "class_token", "conv_proj.weight") if name not in source.state]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        new = {
            _OLD.sub(lambda match: f"{match[1]}.{3 * int(match[2]) - 3}.{match[3]}", name): tensor
            for name, tensor in source.state.items()
        }
        state = NAMES.to_ours(new)
        settings = infer(state)
        heads, unknown = heads_or_unknown(settings["embed_dim"], hints)
        own = {"norm": "layernorm", "mlp": "gelu", "pool": "token", "fc_norm": False}
        settings |= {**heads, **own, "pos_embed": ("learned", _POSITIONS)}
        return Reading(state=state, settings=settings, unknown=unknown, preprocess=_IMAGES)

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under torchvision's names."""
        require(config, FORMAT, in_chans=3, qkv_fused=True)
        square(config, FORMAT)
        refuse(FORMAT, [f"norm={config.norm} (possible: eps 1e-6)"] if eps_of(config) != 1e-6 else [])
        refuse(FORMAT, ["num_classes=0 (possible: 1 and more)"] if not config.num_classes else [])
        full = with_k_bias(state)
        notes = drop(full, "mask_token", "torchvision has none")
        if {**config.pos_embed.args} != _POSITIONS:
            why = "torchvision resizes by bicubic, corners on corners: other numbers at other sizes"
            notes.append(Note(action="dropped", what=str(config.pos_embed), why=why))
        return Writing(state=NAMES.to_theirs(full, FORMAT), notes=tuple(notes))
