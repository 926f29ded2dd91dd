"""torchvision's SwinTransformer: swin_t, swin_s, swin_b and their second version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, refuse
from vitzoo.weights.formats.names import drop
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source
from vitzoo_swin.attention import log_offsets
from vitzoo_swin.config import SwinConfig
from vitzoo_swin.formats.common import BUFFERS, Layout, infer, model_of, padding_notes, require, written_config

FORMAT = "swin/torchvision"
FIRST = "features.1.0.attn."
_ATTENTION = ("qkv", "proj", "relative_position_bias_table", "logit_scale", "cpb_mlp.0", "cpb_mlp.2")
LAYOUT = Layout(
    root={"patch_embed.proj": "features.0.0", "patch_embed.norm": "features.0.2", "norm": "norm", "head.fc": "head"},
    block="features.{stage}.{index}.",
    merging="features.{stage}.",
    inner={
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
        **{f"attn.{name}": f"attn.{name}" for name in _ATTENTION},
    },
    blocks_at=(2, 1),
    merging_at=(2, 0),
)
# The side to which evaluation resizes images, by version, width and depth; of all weights that torchvision publishes.
_RESIZED = {(1, 96, 6): 232, (1, 96, 18): 246, (1, 128, 18): 238, (2, 96, 6): 260, (2, 96, 18): 260, (2, 128, 18): 272}


class Torchvision:
    """One window for all stages, never cut to a small grid; any image size; padding before the shift."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        needed = ("features.0.0.weight", f"{FIRST}qkv.weight", f"{FIRST}relative_position_index")
        return [f"no {name}" for name in needed if name not in source.state]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under the model's names."""
        state = LAYOUT.to_ours(source.state)
        offsets = state.get(f"{FIRST}relative_coords_table")
        notes = drop(state, BUFFERS, "the model computes it")
        notes += _without_k_bias(state) if offsets is not None else []
        version, settings = infer(state)
        if offsets is not None:
            window = ((offsets.shape[1] + 1) // 2, (offsets.shape[2] + 1) // 2)
            settings["window_size"] = (window,) * len(settings["depths"])
        window, patch, steps = settings["window_size"][0], settings["patch_size"], len(settings["depths"]) - 1
        # The files tell no image size, and torchvision takes any: one window in the last stage, as in all its sizes.
        sides = tuple(side * step * 2**steps for side, step in zip(window, patch, strict=True))
        own = {"always_partition": True, "pad_first": True}
        resized = _RESIZED.get((version, settings["embed_dim"], settings["depths"][-2] if steps else 0))
        return Reading(
            state=state,
            settings={**settings, "img_size": sides, "act_layer": "gelu", "pool": "avg", **own},
            switches=tuple(own),
            model=model_of(version, {**settings, "img_size": sides}),
            preprocess=None if resized is None else _images(sides[0] / resized),
            notes=tuple(notes),
            assumed=(
                Note(action="set", what=f"img_size={sides}", why="the files tell none; any other size works too"),
            ),
        )

    def write(self, state: Mapping[str, Tensor], config: Mapping[str, Any], preprocess: Preprocess) -> Writing:
        """Return the weights under torchvision's names, with the buffers that it keeps in its files."""
        settings = written_config(config, state)
        require(settings, FORMAT, head=True)
        refuse(FORMAT, _reasons_against(settings))
        full = dict(state)
        if settings.version == 2:
            _with_k_bias(full)
        theirs = LAYOUT.to_theirs(full, FORMAT)
        for name in [name for name in theirs if name.endswith("attn.qkv.weight")]:
            theirs |= _buffers(name.removesuffix("qkv.weight"), settings, theirs[name])
        return Writing(state=theirs, notes=padding_notes(settings, "torchvision", pad_first=True))


def _reasons_against(config: SwinConfig) -> list[str]:
    reasons = []
    window = config.window_size[0]
    for stage, grid in enumerate(config.grids):
        if config.window_of(stage) != window:
            reasons.append(f"windows of {window} cut to {config.window_of(stage)} in stage {stage} (possible: not cut)")
        if not config.pad_first and config.always_partition and any(g <= w for g, w in zip(grid, window, strict=True)):
            reasons.append(f"a shift in stage {stage}, which one window covers (possible: none)")
    if set(config.pretrained_window_sizes) - {(0, 0), window}:
        reasons.append(f"pretrained_window_sizes={config.pretrained_window_sizes} (possible: 0)")
    if config.in_chans != 3:
        reasons.append(f"in_chans={config.in_chans} (possible: 3)")
    if not config.num_classes:
        reasons.append("num_classes=0 (possible: 1 and more)")
    if not config.qkv_bias:
        reasons.append("qkv_bias=False (possible: True)")
    if config.act_layer != "gelu":
        reasons.append(f"act_layer={config.act_layer!r} (possible: 'gelu')")
    return reasons


def _without_k_bias(state: dict[str, Tensor]) -> list[Note]:
    """Take the bias of qkv apart, in place: that of k is there, and never used."""
    names = [name for name in state if name.endswith("attn.qkv.bias")]
    for name in names:
        prefix = name.removesuffix("qkv.bias")
        state[f"{prefix}q_bias"], _, state[f"{prefix}v_bias"] = state.pop(name).chunk(3)
    if not names:
        return []
    return [Note(action="dropped", what="the bias of k", why="torchvision sets it to 0 before it is used")]


def _with_k_bias(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        prefix = name.removesuffix("q_bias")
        q, v = state.pop(name), state.pop(f"{prefix}v_bias")
        state[f"{prefix}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])


def _buffers(prefix: str, config: SwinConfig, like: Tensor) -> dict[str, Tensor]:
    """Return what torchvision keeps beside a block's weights, though it follows from the window."""
    height, width = config.window_size[0]
    rows, columns = (
        part.flatten() for part in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    buffers = {f"{prefix}relative_position_index": (down * (2 * width - 1) + right).flatten()}
    if config.version == 2:
        offsets = log_offsets((height, width), (0, 0), like.cpu())
        buffers[f"{prefix}relative_coords_table"] = offsets.reshape(1, 2 * height - 1, 2 * width - 1, 2)
    return buffers


def _images(crop_pct: float) -> Preprocess:
    return Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=crop_pct, interpolation="bicubic")
