"""What the formats share: names read both ways, what tensors tell of their model, and what a format has a place for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.weights.formats.base import refuse
from vitzoo.weights.report import Note
from vitzoo_swin.config import SwinConfig
from vitzoo_swin.sizes import ANY, SIZES

TABLE, SCALE = "attn.relative_position_bias_table", "attn.logit_scale"
BUFFERS = r".*(relative_position_index|relative_coords_table|attn_mask)"
ASK = "the tensors do not tell it: give it, or name the model, vitzoo.create(name, weights=...)"
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)")
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.(.+)")


@dataclass(frozen=True)
class Layout:
    """A library's names. A name stands for all tensors of the module that it names.

    Args:
        root: {ours: theirs} outside the stages.
        block: theirs for 'layers.{stage}.blocks.{index}.'.
        merging: theirs for 'layers.{stage}.downsample.'.
        inner: {ours: theirs} inside a block.
        blocks_at: (factor, offset) from our number of a stage to theirs in `block`.
        merging_at: the same in `merging`.
    """

    root: Mapping[str, str]
    block: str
    merging: str
    inner: Mapping[str, str]
    blocks_at: tuple[int, int]
    merging_at: tuple[int, int]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under our names; those that the layout does not name keep theirs."""
        root = {theirs: ours for ours, theirs in self.root.items()}
        inner = {theirs: ours for ours, theirs in self.inner.items()}
        block, merging = _pattern(self.block), _pattern(self.merging)
        result = {}
        for name, tensor in state.items():
            ours = _renamed(name, root)
            if ours is None and (match := block.fullmatch(name)) is not None:
                stage, rest = _undone(match[1], self.blocks_at), _renamed(match[3], inner)
                ours = None if stage is None or rest is None else f"layers.{stage}.blocks.{match[2]}.{rest}"
            if ours is None and (match := merging.fullmatch(name)) is not None:
                stage = _undone(match[1], self.merging_at)
                ours = None if stage is None else f"layers.{stage}.downsample.{match[2]}"
            result[ours or name] = tensor
        return result

    def to_theirs(self, state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
        """Return the tensors under the library's names.

        Raises:
            CheckpointError: a tensor has no name there.
        """
        result, left = {}, []
        for name, tensor in state.items():
            theirs = _renamed(name, self.root)
            if (match := _BLOCK.fullmatch(name)) is not None:
                rest, (factor, offset) = _renamed(match[3], self.inner), self.blocks_at
                prefix = self.block.format(stage=factor * int(match[1]) + offset, index=match[2])
                theirs = None if rest is None else prefix + rest
            elif (match := _MERGING.fullmatch(name)) is not None:
                factor, offset = self.merging_at
                theirs = self.merging.format(stage=factor * int(match[1]) + offset) + match[2]
            if theirs is None:
                left.append(name)
            else:
                result[theirs] = tensor
        refuse(format, [f"no name for {name}" for name in left[:4]])
        return result


def infer(state: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    """Return the version and the settings that tensors under our names tell, windows included where they tell them.

    Raises:
        CheckpointError: they are no Swin Transformer's.
    """
    version = 1 if f"layers.0.blocks.0.{TABLE}" in state else 2
    depths = _depths(state)
    kernel = _tensor(state, "patch_embed.proj.weight", 4)
    first = "layers.0.blocks.0"
    per_head = [
        _tensor(state, f"layers.{stage}.blocks.0.{TABLE if version == 1 else SCALE}") for stage in _range(depths)
    ]
    settings: dict[str, Any] = {
        "embed_dim": kernel.shape[0],
        "in_chans": kernel.shape[1],
        "patch_size": (kernel.shape[2], kernel.shape[3]),
        "depths": depths,
        "num_heads": tuple(tensor.shape[1 if version == 1 else 0] for tensor in per_head),
        "mlp_ratio": _tensor(state, f"{first}.mlp.fc1.weight", 2).shape[0] / kernel.shape[0],
        "qkv_bias": f"{first}.attn.{'qkv.bias' if version == 1 else 'q_bias'}" in state,
        "num_classes": state["head.fc.weight"].shape[0] if "head.fc.weight" in state else 0,
    }
    if version == 1:
        settings["window_size"] = tuple(_square_window(table) for table in per_head)
    return version, settings


def model_of(version: int, settings: Mapping[str, Any]) -> str:
    """Return the name of the size that has these settings, or of the model of any size."""
    telling = ("img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "pretrained_window_sizes")
    given = {name: settings[name] for name in telling if name in settings}
    base = ANY[version - 1].config
    if {"img_size", "window_size"} <= given.keys():
        config = base.with_changes(**given)
        for size in SIZES:
            if size.config.version == version and all(getattr(size.config, n) == getattr(config, n) for n in telling):
                return f"swin/{size.name}"
    return f"swin/v{version}"


def config_of(version: int, settings: Mapping[str, Any]) -> SwinConfig:
    """Return the settings as a config."""
    return ANY[version - 1].config.with_changes(**settings)


def written_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> SwinConfig:
    """Return the config of a model that is written, whose version its tensors tell."""
    return config_of(1 if f"layers.0.blocks.0.{TABLE}" in state else 2, config)


def require(config: SwinConfig, format: str, *, head: bool) -> None:
    """Raise unless the parts that no format tells are as every library has them.

    Args:
        config: the model's settings.
        format: the format's name.
        head: whether the library's own class has a fixed pool and activation, and needs one window for all stages.

    Raises:
        CheckpointError: the format has no place for the model; the message holds every reason.
    """
    reasons = [] if config.final_norm else ["final_norm=False (possible: True)"]
    if head:
        if config.pool != "avg":
            reasons.append(f"pool={config.pool!r} (possible: 'avg')")
        if len(set(config.window_size)) != 1:
            reasons.append(f"window_size={config.window_size} (possible: one for all stages)")
    refuse(format, reasons)


def padding_notes(config: SwinConfig, library: str, *, pad_first: bool) -> tuple[Note, ...]:
    """Return a note when the library computes other numbers at the model's own size, where windows do not divide it."""
    whole = all(
        not (rows % window[0] or columns % window[1])
        for (rows, columns), window in zip(config.grids, map(config.window_of, _range(config.depths)), strict=True)
    )
    if whole or config.pad_first == pad_first:
        return ()
    how = "pads windows before the shift" if pad_first else "pads windows after the shift"
    why = f"{library} {how}, and they do not divide the grid at {config.img_size}: other numbers"
    return (Note(action="dropped", what=f"pad_first={config.pad_first}", why=why),)


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one projection to each of q, k and v: `attn.q.weight` and so on."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, found, last = name.rpartition("attn.qkv.")
        if found:
            result |= {f"{prefix}attn.{part}.{last}": third for part, third in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            result[re.sub(r"attn\.([qv])_bias", r"attn.\1.bias", name)] = tensor
    return result


def fuse_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one projection to q, k and v; without a bias of k, q and v keep theirs as version 2 does.

    Raises:
        CheckpointError: a block lacks one of the projections.
    """
    result = dict(state)
    for name in [name for name in state if name.endswith("attn.q.weight")]:
        prefix = name.removesuffix("q.weight")
        if absent := [part for part in "kv" if f"{prefix}{part}.weight" not in state]:
            raise CheckpointError(f"these weights have no {prefix}{absent[0]}.weight; nothing was loaded")
        result[f"{prefix}qkv.weight"] = torch.cat([result.pop(f"{prefix}{part}.weight") for part in "qkv"])
        biases = {part: result.pop(f"{prefix}{part}.bias", None) for part in "qkv"}
        present = [bias for bias in biases.values() if bias is not None]
        if len(present) == 3:
            result[f"{prefix}qkv.bias"] = torch.cat(present)
        else:
            result |= {f"{prefix}{part}_bias": bias for part, bias in biases.items() if bias is not None}
    return result


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    found: dict[int, set[int]] = {}
    for name in state:
        if (match := _BLOCK.fullmatch(name)) is not None:
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    if not found or set(found) != set(range(len(found))) or any(b != set(range(len(b))) for b in found.values()):
        raise CheckpointError("these weights have no stages of blocks that are numbered from 0; nothing was loaded")
    return tuple(len(found[stage]) for stage in sorted(found))


def _range(depths: tuple[int, ...]) -> range:
    return range(len(depths))


def _square_window(table: Tensor) -> tuple[int, int]:
    side = math.isqrt(table.shape[0])
    if side * side != table.shape[0] or side % 2 == 0:
        raise CheckpointError(
            f"a table of {table.shape[0]} offsets is of no square window; nothing was loaded: name the model with its "
            "window_size, vitzoo.create(name, weights=...)"
        )
    return (side + 1) // 2, (side + 1) // 2


def _tensor(state: Mapping[str, Tensor], name: str, dims: int | None = None) -> Tensor:
    tensor = state.get(name)
    if tensor is None or (dims is not None and tensor.ndim != dims):
        what = "is absent" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise CheckpointError(f"these weights are no Swin Transformer: {name} {what}; nothing was loaded")
    return tensor


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{stage\}", r"(\d+)").replace(r"\{index\}", r"(\d+)")
    return re.compile(escaped + "(.+)")


def _undone(number: str, at: tuple[int, int]) -> int | None:
    stage, rest = divmod(int(number) - at[1], at[0])
    return None if rest or stage < 0 else stage


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    if name in table:
        return table[name]
    module, dot, last = name.rpartition(".")
    return f"{table[module]}.{last}" if dot and module in table else None
