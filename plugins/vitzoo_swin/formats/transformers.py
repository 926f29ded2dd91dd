"""Hugging Face transformers: Swin and Swinv2, a directory of config.json and weights, in names of version 4 and 5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.labels import labels_of
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing, refuse
from vitzoo.weights.formats.hf.common import ACTIVATIONS, OWN_ACTIVATIONS, images_of, labels, preprocess_of
from vitzoo.weights.formats.names import drop, without_prefix
from vitzoo.weights.report import Note
from vitzoo.weights.source import IMAGES_FILE, Source
from vitzoo_swin.block import EPS
from vitzoo_swin.config import Pair, SwinConfig
from vitzoo_swin.formats.common import (
    ASK,
    BUFFERS,
    Layout,
    config_of,
    fuse_qkv,
    infer,
    model_of,
    padding_notes,
    require,
    split_qkv,
    written_config,
)

FORMAT = "swin/transformers"
TYPES = {"swin": 1, "swinv2": 2}
_SELF = ("relative_position_bias_table", "logit_scale")
_CPB = "continuous_position_bias_mlp"
LAYOUT = Layout(
    root={
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        "norm": "layernorm",
        "head.fc": "classifier",
    },
    block="encoder.layers.{stage}.blocks.{index}.",
    merging="encoder.layers.{stage}.downsample.",
    inner={
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "attn.proj": "attention.output.dense",
        **{f"attn.{q[0]}": f"attention.self.{q}" for q in ("query", "key", "value")},
        **{f"attn.{name}": f"attention.self.{name}" for name in _SELF},
        **{f"attn.cpb_mlp.{number}": f"attention.self.{_CPB}.{number}" for number in (0, 2)},
    },
    blocks_at=(1, 0),
    merging_at=(1, -1),
)
# Version 5 has these names in memory, and the others on disk.
_IN_MEMORY = (
    (r"attention\.q_proj", "attention.self.query"),
    (r"attention\.k_proj", "attention.self.key"),
    (r"attention\.v_proj", "attention.self.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.relative_position_bias\.relative", "attention.self.relative"),
    (r"\.mlp\.fc1", ".intermediate.dense"),
    (r"\.mlp\.fc2", ".output.dense"),
)


class Transformers:
    """Swin and Swinv2 of transformers, with a classifier or without."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        if source.config is not None and "model_type" in source.config:
            kind = source.config["model_type"]
            return [] if kind in TYPES else [f"model_type {kind!r} is not one of {', '.join(TYPES)}"]
        first = "encoder.layers.0.blocks.0.layernorm_before.weight"
        names = without_prefix(source.state, "swin.", "swinv2.")
        return [] if first in names else [f"no config.json with a 'model_type', and no {first}"]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under the model's names."""
        config = source.config or {}
        state = fuse_qkv(LAYOUT.to_ours(_on_disk(without_prefix(source.state, "swin.", "swinv2."))))
        notes = drop(state, BUFFERS, "the model computes it")
        notes += drop(state, r"embeddings\.mask_token", "the model masks no patches")
        version, settings = infer(state)
        settings |= {"pool": "avg", "pad_first": True, **_told(config, len(settings["depths"]))}
        if not config:
            why = "the family's own, for lack of a config.json"
            notes.append(Note(action="set", what="the activation gelu", why=why))
        unknown = {name: ASK for name in ("img_size", "window_size") if name not in settings}
        if not unknown:
            _check_shifts(config_of(version, settings), source.name)
        named = labels_of(config.get("id2label"))
        return Reading(
            state=state,
            settings=settings,
            unknown=unknown,
            switches=("pad_first", "act_layer"),
            model=model_of(version, {**settings, **hints}),
            preprocess=preprocess_of(source.images),
            labels=named if len(named) == settings["num_classes"] else (),
            notes=tuple(notes),
        )

    def write(self, state: Mapping[str, Tensor], config: Mapping[str, Any], preprocess: Preprocess) -> Writing:
        """Return the weights under the names of transformers' files, with both JSON files."""
        settings = written_config(config, state)
        require(settings, FORMAT, head=True)
        refuse(FORMAT, _reasons_against(settings))
        kind = next(kind for kind, version in TYPES.items() if version == settings.version)
        split = split_qkv(state)
        theirs = LAYOUT.to_theirs(split, FORMAT)
        if settings.num_classes:
            theirs = {name if name.startswith("classifier.") else f"{kind}.{name}": theirs[name] for name in theirs}
        images = images_of(
            preprocess, img_size=settings.img_size, in_chans=settings.in_chans, processor="ViTImageProcessor"
        )
        return Writing(
            state=theirs,
            files={"config.json": _config_json(settings, kind), IMAGES_FILE: images},
            notes=padding_notes(settings, "transformers", pad_first=True),
        )


def _on_disk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in _IN_MEMORY:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def _told(config: Mapping[str, Any], stages: int) -> dict[str, Any]:
    """Return the settings that config.json tells.

    Raises:
        CheckpointError: it asks for what the model has not.
    """
    eps, act = config.get("layer_norm_eps", EPS), config.get("hidden_act", "gelu")
    wrong = []
    if eps != EPS:
        wrong.append(f"layer_norm_eps={eps} (possible: {EPS})")
    if config.get("use_absolute_embeddings"):
        wrong.append("use_absolute_embeddings=true (possible: false)")
    if act not in ACTIVATIONS:
        wrong.append(f"hidden_act={act!r} (possible: {', '.join(ACTIVATIONS)})")
    if wrong:
        raise CheckpointError(f"no Swin Transformer of vitzoo's has {'; '.join(wrong)}; nothing was loaded")
    settings: dict[str, Any] = {"act_layer": ACTIVATIONS[act]}
    names = {"image_size": "img_size", "window_size": "window_size", "drop_path_rate": "drop_path_rate"}
    settings |= {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    pretrained = config.get("pretrained_window_sizes")
    if pretrained is not None and any(pretrained):
        settings["pretrained_window_sizes"] = tuple((side, side) for side in pretrained[:stages])
    return settings


def _shifts(config: SwinConfig) -> list[tuple[Pair, Pair]]:
    """Return each stage's window and shift as transformers computes them from one side for both."""
    shifts = []
    for stage, grid in enumerate(config.grids):
        side = config.window_size[stage][0]
        if config.version == 1:
            near, step = min(grid), side // 2
        else:
            # Version 2 rounds down, and looks at rows alone.
            near, step = config.grids[0][0] // 2**stage, side // 2
        window, shift = (near, 0) if near <= side else (side, step)
        shifts.append(((window, window), (shift, shift)))
    return shifts


def _check_shifts(config: SwinConfig, name: str) -> None:
    ours = [(config.window_of(stage), config.shift_of(stage)) for stage in range(len(config.depths))]
    if ours != _shifts(config):
        raise CheckpointError(
            f"at img_size={config.img_size} transformers gives {name} the windows and shifts {_shifts(config)}, "
            f"and vitzoo {ours}; nothing was loaded: give another img_size"
        )


def _reasons_against(config: SwinConfig) -> list[str]:
    reasons = []
    ours = [(config.window_of(stage), config.shift_of(stage)) for stage in range(len(config.depths))]
    if ours != _shifts(config):
        reasons.append(f"windows and shifts {ours} (possible: {_shifts(config)})")
    if config.version == 1 and any(window[0] < config.window_size[0][0] for window, _ in ours):
        reasons.append(f"windows that are cut to {ours[-1][0]} (possible: not cut)")
    if any(pair[0] != pair[1] for pair in (*config.window_size, *config.pretrained_window_sizes)):
        reasons.append("windows that are no squares")
    if config.patch_size[0] != config.patch_size[1]:
        reasons.append(f"patch_size={config.patch_size} is not a square")
    return reasons


def _config_json(config: SwinConfig, kind: str) -> dict[str, Any]:
    family = {"swin": "Swin", "swinv2": "Swinv2"}[kind]
    height, width = config.img_size
    pretrained = {"pretrained_window_sizes": [pair[0] for pair in config.pretrained_window_sizes]}
    return {
        "architectures": [f"{family}{'ForImageClassification' if config.num_classes else 'Model'}"],
        "model_type": kind,
        "image_size": height if height == width else [height, width],
        "patch_size": config.patch_size[0],
        "num_channels": config.in_chans,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_size[0][0],
        **(pretrained if config.version == 2 else {}),
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "hidden_act": OWN_ACTIVATIONS[config.act_layer],
        "drop_path_rate": config.drop_path_rate,
        "layer_norm_eps": EPS,
        "use_absolute_embeddings": False,
        **(labels(config.num_classes) if config.num_classes else {}),
    }
