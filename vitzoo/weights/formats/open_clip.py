"""OpenAI's CLIP and open_clip: the image tower, under `visual.` or alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, norm_of, refuse, require, square
from vitzoo.weights.formats.infer import infer
from vitzoo.weights.formats.names import Names, drop, with_k_bias
from vitzoo.weights.report import Note
from vitzoo.weights.source import OPEN_CLIP_CONFIG, OPEN_CLIP_FILE, Source

FORMAT = "open_clip"
NAMES = Names(
    root={
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "norm": "ln_post",
        "head.weight": "proj",
    },
    block="transformer.resblocks.{i}.",
    inner={
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "ls1": "ls_1",
        "ls2": "ls_2",
    },
)
# Published towers whose heads are not 64 wide: H, g and bigG.
WIDE_HEADS = {1280: 16, 1408: 16, 1664: 16}
# Settings of open_clip that add parts which vitzoo does not build.
_OFF = (
    "attentional_pool",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "timm_model_name",
    "act_kwargs",
)
# The tensors of OpenAI's own files that open_clip's do not have: there the activation is quick GELU.
_OPENAI = ("input_resolution", "context_length", "vocab_size")
_ASK = "no open_clip_config.json tells it: give mlp='quick_gelu' (OpenAI, MetaCLIP, DFN) or mlp='gelu'"


class OpenClip:
    """The VisionTransformer of OpenAI's CLIP and of open_clip, with its projection as the head."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        state = source.state
        reasons = []
        for name in ("class_embedding", "conv1.weight", "transformer.resblocks.0.ln_1.weight"):
            if name not in state and f"visual.{name}" not in state:
                reasons.append(f"no visual.{name}")
        if "visual.trunk.patch_embed.proj.weight" in state:
            reasons.append("visual.trunk is a model of timm's")
        return reasons

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        model = dict((source.config or {}).get("model_cfg", {}))
        vision = dict(model.get("vision_cfg", {}))
        if wrong := [f"{name}={vision[name]!r}" for name in _OFF if vision.get(name)]:
            raise CheckpointError(f"open_clip's tower has {', '.join(wrong)}, which vitzoo cannot build")
        state, notes = dict(source.state), []
        if any(name.startswith("visual.") for name in state):
            notes += drop(state, r"(?!visual\.).+", "the text tower; vitzoo holds image models")
            state = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
        ours = NAMES.to_ours(state)
        if "cls_token" in ours:
            ours["cls_token"] = ours["cls_token"].reshape(1, 1, -1)
        if "pos_embed" in ours:
            ours["pos_embed"] = ours["pos_embed"][None]
        if "head.weight" in ours:
            ours["head.weight"] = ours["head.weight"].T
            ours["head.bias"] = torch.zeros_like(ours["head.weight"][:, 0])
            notes.append(Note(action="converted", what="head.weight", why="a projection, transposed"))
            notes.append(Note(action="added", what="head.bias", why="zeros; the projection has none"))
        if "norm_pre.weight" not in ours and "patch_embed.proj.weight" in ours:
            ours["patch_embed.proj.bias"] = torch.zeros_like(ours["patch_embed.proj.weight"][:, 0, 0, 0])
            notes.append(Note(action="added", what="patch_embed.proj.bias", why="zeros; the convolution has none"))
        average = vision.get("pool_type", "tok") == "avg"
        after = average and bool(vision.get("final_ln_after_pool"))
        if after and "norm.weight" in ours:
            ours |= {f"fc_norm.{kind}": ours.pop(f"norm.{kind}") for kind in ("weight", "bias")}
        settings = infer(ours, vision.get("image_size"))
        unknown: dict[str, str] = {}
        if model:
            settings["mlp"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
        elif any(name in source.state for name in _OPENAI):
            settings["mlp"] = "quick_gelu"
        else:
            unknown["mlp"] = _ASK
        dim = settings["embed_dim"]
        published = hints.get("num_heads", WIDE_HEADS.get(dim, max(1, dim // 64)))
        settings |= {
            "num_heads": dim // vision.get("head_width", 64) if model else published,
            "norm": norm_of((vision.get("norm_kwargs") or {}).get("eps", 1e-5)),
            "pool": "avg" if average else "token",
            "fc_norm": after,
        }
        if settings.get("init_values") is not None and vision.get("ls_init_value"):
            settings["init_values"] = float(vision["ls_init_value"])
        preprocess = _preprocess((source.config or {}).get("preprocess_cfg"))
        return Reading(state=ours, settings=settings, unknown=unknown, preprocess=preprocess, notes=tuple(notes))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under `visual.`, with open_clip_config.json of the image tower."""
        require(
            config,
            FORMAT,
            rest=True,
            in_chans=3,
            mlp=("gelu", "quick_gelu"),
            pool=("token", "avg"),
            pre_norm=True,
            uses_fc_norm=(True, False),
            init_values=config.init_values,
            qkv_fused=True,
        )
        img_size, patch_size = square(config, FORMAT)
        full = with_k_bias(state)
        notes = drop(full, "mask_token", "open_clip has none")
        bias = full.pop("head.bias", None)
        refuse(FORMAT, ["num_classes=0 (possible: 1 and more)"] if bias is None else [])
        refuse(FORMAT, ["head.bias is not 0, and the projection has none"] if bias is not None and bias.any() else [])
        full["head.weight"] = full["head.weight"].T
        full["cls_token"], full["pos_embed"] = full["cls_token"][0, 0], full["pos_embed"][0]
        if config.uses_fc_norm:
            full |= {f"norm.{kind}": full.pop(f"fc_norm.{kind}") for kind in ("weight", "bias")}
        vision: dict[str, Any] = {
            "image_size": img_size,
            "layers": config.depth,
            "width": config.embed_dim,
            "head_width": config.head_dim,
            "mlp_ratio": config.mlp_ratio,
            "patch_size": patch_size,
            "ls_init_value": config.init_values,
            "pool_type": "avg" if config.pool.name == "avg" else "tok",
            "final_ln_after_pool": config.uses_fc_norm,
            "norm_kwargs": {"eps": eps_of(config)},
        }
        quick = config.mlp.name == "quick_gelu"
        squash = preprocess.crop_mode == "squash"
        mean, std = preprocess.for_channels(3)
        images = {
            "mean": list(mean),
            "std": list(std),
            "interpolation": preprocess.interpolation,
            "resize_mode": "squash" if squash else "shortest",
        }
        if config.pos_embed.args:
            why = "open_clip resizes by bicubic with antialiasing: other numbers at other sizes"
            notes.append(Note(action="dropped", what=str(config.pos_embed), why=why))
        theirs = {f"visual.{name}": tensor for name, tensor in NAMES.to_theirs(full, FORMAT).items()}
        model = {"embed_dim": config.num_classes, "quick_gelu": quick, "vision_cfg": vision}
        return Writing(
            state=theirs,
            weights_file=OPEN_CLIP_FILE,
            files={OPEN_CLIP_CONFIG: {"model_cfg": model, "preprocess_cfg": images}},
            notes=tuple(notes),
        )


def _preprocess(images: Mapping[str, Any] | None) -> Preprocess:
    images = images or {}
    return Preprocess(
        mean=tuple(images.get("mean", CLIP_MEAN)),
        std=tuple(images.get("std", CLIP_STD)),
        crop_pct=1.0,
        crop_mode="squash" if images.get("resize_mode") == "squash" else "center",
        interpolation=images.get("interpolation", "bicubic"),
    )
