"""Other windows and other patches: of a model that stands, and of weights on their way into one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.embed.relative import resample_bias_table
from vitzoo.embed.resample import resample_patch_kernel
from vitzoo.errors import CheckpointError
from vitzoo.weights.adapt import with_channels
from vitzoo.weights.report import Note
from vitzoo_swin.attention import TableAttention, WindowAttention, measure_of
from vitzoo_swin.config import Pair, SwinConfig

TABLE, KERNEL = "relative_position_bias_table", "patch_embed.proj.weight"
# As timm resizes them, which keeps the biases of near offsets.
SPACING = "geometric"


def resize_attention(attn: WindowAttention, window: Pair, shift: Pair) -> None:
    """Give an attention layer another window and shift; its table, if it has one, is resized."""
    if isinstance(attn, TableAttention) and window != attn.window:
        old = attn.relative_position_bias_table
        with torch.no_grad():
            table = resample_bias_table(old, attn.window, window, spacing=SPACING)
        attn.relative_position_bias_table = nn.Parameter(table, requires_grad=old.requires_grad)
    attn.window, attn.shift = window, shift


def resized_state(
    model: nn.Module, state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[Note]]:
    """Return the weights at the model's sizes, and notes; see `SwinTransformer.adapt_weights`."""
    result, notes = dict(state), []
    config: SwinConfig = model.settings  # type: ignore[assignment]
    source = _settings_of(config, settings)
    resized: dict[tuple[Pair, Pair], list[str]] = {}
    for name, layer in model.named_modules():
        key = f"{name}.{TABLE}"
        table = result.get(key)
        if not isinstance(layer, TableAttention) or table is None or table.ndim != 2:
            continue
        old = _window_of(table, source, stage=int(name.split(".")[1]))
        if old is not None and old != layer.window:
            result[key] = resample_bias_table(table, old, layer.window, spacing=SPACING)
            resized.setdefault((old, layer.window), []).append(key)
    for (old, new), names in resized.items():
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        why = f"windows of {old[0]}x{old[1]} to {new[0]}x{new[1]}, offsets at geometric distances"
        notes.append(Note(action="resized", what=what, why=why))
    notes += _measured_otherwise(config, source)
    kernel = result.get(KERNEL)
    if kernel is not None and kernel.ndim == 4:
        result[KERNEL], more = _resized_kernel(kernel, config)
        notes += more
    return result, notes


def _measured_otherwise(config: SwinConfig, source: SwinConfig | None) -> list[Note]:
    """Return a note when version 2 has other windows than its source, and measures offsets by them: no shape tells.

    Raises:
        CheckpointError: it has the same windows, and its source measures offsets by others.
    """
    if config.version == 1 or source is None or config.depths != source.depths:
        return []
    for stage in range(len(config.depths)):
        old, new = source.window_of(stage), config.window_of(stage)
        theirs, ours = source.pretrained_window_sizes[stage], config.pretrained_window_sizes[stage]
        if old == new and measure_of(old, theirs) != measure_of(new, ours):
            raise CheckpointError(
                f"the source measures offsets by pretrained_window_sizes={source.pretrained_window_sizes}, this model "
                f"by {config.pretrained_window_sizes} (0: its own windows), and the numbers would be wrong; nothing "
                "was loaded. Give the source's, or build the model that the weights belong to with vitzoo.load(...)"
            )
        if old != new and not any(ours):
            what = f"windows of {new[0]}x{new[1]} in stage {stage}, the source's are {old[0]}x{old[1]}"
            why = "offsets are measured by the model's own, as timm does; pretrained_window_sizes= measures by others"
            return [Note(action="set", what=what, why=why)]
    return []


def _resized_kernel(kernel: Tensor, config: SwinConfig) -> tuple[Tensor, list[Note]]:
    notes = []
    channels, sides = kernel.shape[1], (kernel.shape[2], kernel.shape[3])
    if channels != config.in_chans:
        kernel = with_channels(kernel, config.in_chans)
        how = "repeated and scaled" if config.in_chans > 1 else "summed"
        notes.append(Note(action="resized", what=KERNEL, why=f"{channels} to {config.in_chans} channels, {how}"))
    if sides != config.patch_size:
        kernel = resample_patch_kernel(kernel, config.patch_size)
        why = f"patches of {sides} to {config.patch_size}, by FlexiViT's pseudo-inverse"
        notes.append(Note(action="resized", what=KERNEL, why=why))
    return kernel, notes


def _settings_of(config: SwinConfig, settings: Mapping[str, Any]) -> SwinConfig | None:
    """Return the source's settings, when it tells its windows."""
    if "window_size" not in settings:
        return None
    named = ["img_size", "patch_size", "window_size", "always_partition", "depths", "num_heads", "embed_dim"]
    if config.version == 2:
        named.append("pretrained_window_sizes")
    return config.with_changes(**{name: settings[name] for name in named if name in settings})


def _window_of(table: Tensor, source: SwinConfig | None, *, stage: int) -> Pair | None:
    """Return the window of a table: what the source says, if it fits, else a square; None when it is neither."""
    rows = table.shape[0]
    if source is not None and stage < len(source.depths):
        height, width = source.window_of(stage)
        if (2 * height - 1) * (2 * width - 1) == rows:
            return height, width
    side = math.isqrt(rows)
    return ((side + 1) // 2, (side + 1) // 2) if side * side == rows and side % 2 else None
