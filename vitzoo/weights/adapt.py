"""Making weights fit a model that keeps the same numbers in another form, or has another size."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.config import ViTConfig
from vitzoo.embed.patch import grid_of
from vitzoo.embed.position import LearnedPositions
from vitzoo.embed.resample import resample_patch_kernel
from vitzoo.errors import CheckpointError
from vitzoo.init import init_vit
from vitzoo.weights.formats.names import QKV, depth_of, split_qkv
from vitzoo.weights.report import Note

HEADS = ("head", "head_dist")
RESETTABLE = ("head",)
KERNEL, TABLE = "patch_embed.proj.weight", "pos_embed"


def adapt(
    state: Mapping[str, Tensor],
    config: ViTConfig,
    *,
    settings: Mapping[str, Any],
    given: Collection[str],
    reset: Collection[str],
) -> tuple[dict[str, Tensor], list[Note]]:
    """Return the weights in the form and at the sizes of a model, and what was done. What still differs, stays.

    Args:
        state: tensors under vitzoo's names.
        config: the model's settings.
        settings: what the source says of its model; may be empty.
        given: the settings that the caller gave: only then are patches and channels changed.
        reset: parts to draw anew; 'head'.

    Raises:
        CheckpointError: a part that cannot be reset, or a bias that the model has no place for and is not 0.
    """
    if unknown := sorted(set(reset) - set(RESETTABLE)):
        raise CheckpointError(f"reset={unknown[0]!r} is unknown (possible: {', '.join(map(repr, RESETTABLE))})")
    result, notes = dict(state), []
    if "mask_token" in result and not config.mask_token:
        del result["mask_token"]
        notes.append(Note(action="dropped", what="mask_token", why="the model masks no patches"))
    notes += _adapt_qkv(result, config)
    notes += _adapt_swiglu(result, config)
    if "head" in reset:
        notes += _new_head(result, config)
    if config.patch_embed.name in ("conv", "linear") and KERNEL in result and result[KERNEL].ndim == 4:
        notes += _adapt_patches(result, config, given)
    if config.pos_embed.name == "learned" and TABLE in result and result[TABLE].ndim == 3:
        notes += _adapt_positions(result, config, settings)
    return result, notes


def _adapt_qkv(state: dict[str, Tensor], config: ViTConfig) -> list[Note]:
    fused, has_q = "blocks.0.attn.qkv.weight" in state, "blocks.0.attn.q_bias" in state
    has_bias = "blocks.0.attn.qkv.bias" in state
    if config.block.name == "parallel" or not (fused or "blocks.0.attn.q_proj.weight" in state):
        return []
    bias = (True if has_bias else "qv" if has_q else False) if fused else _split_bias(state)
    if fused == config.qkv_fused and bias == config.qkv_bias:
        return []
    split = split_qkv(state)
    for i in range(depth_of(split)):
        for name, wanted in zip(QKV, _wanted(config.qkv_bias), strict=True):
            key = f"blocks.{i}.attn.{name}.bias"
            if key in split and not wanted:
                if split[key].any():
                    raise CheckpointError(
                        f"{key} is not 0, and the model has qkv_bias={config.qkv_bias!r}; nothing was loaded: "
                        f"create it with qkv_bias={bias!r}"
                    )
                del split[key]
            elif wanted and key not in split:
                split[key] = torch.zeros_like(split[f"blocks.{i}.attn.{name}.weight"][:, 0])
    if config.qkv_fused:
        _fuse(split, config.qkv_bias)
    state.clear()
    state.update(split)
    form = f"{'one projection' if config.qkv_fused else 'three projections'}, qkv_bias={config.qkv_bias!r}"
    return [Note(action="converted", what="blocks.*.attn.qkv", why=f"the model has {form}; absent biases are 0")]


def _split_bias(state: Mapping[str, Tensor]) -> bool | str:
    return True if "blocks.0.attn.k_proj.bias" in state else "qv" if "blocks.0.attn.q_proj.bias" in state else False


def _wanted(qkv_bias: bool | str) -> tuple[bool, bool, bool]:
    return bool(qkv_bias), qkv_bias is True, bool(qkv_bias)


def _fuse(state: dict[str, Tensor], qkv_bias: bool | str) -> None:
    for i in range(depth_of(state)):
        prefix = f"blocks.{i}.attn."
        state[f"{prefix}qkv.weight"] = torch.cat([state.pop(f"{prefix}{name}.weight") for name in QKV])
        biases = [state.pop(f"{prefix}{name}.bias", None) for name in QKV]
        present = [bias for bias in biases if bias is not None]
        if qkv_bias is True:
            state[f"{prefix}qkv.bias"] = torch.cat(present)
        elif qkv_bias == "qv":
            state[f"{prefix}q_bias"], state[f"{prefix}v_bias"] = present


def _adapt_swiglu(state: dict[str, Tensor], config: ViTConfig) -> list[Note]:
    """Put gate and value into one layer, the gate first, or take them apart."""
    wanted, packs = config.mlp.name, "blocks.0.mlp.fc1_g.weight" in state
    if (wanted, packs) not in (("swiglu_packed", True), ("swiglu", False)) or "blocks.0.mlp.fc2.weight" not in state:
        return []
    for name in list(state):
        prefix, layer, last = name.rpartition("mlp.fc1")
        if packs and layer and last.startswith("_g."):
            value = state.pop(f"{prefix}mlp.fc1_x.{last[3:]}")
            state[f"{prefix}mlp.fc1.{last[3:]}"] = torch.cat([state.pop(name), value])
        elif not packs and layer and name.startswith("blocks."):
            gate, value = state.pop(name).chunk(2)
            state[f"{prefix}mlp.fc1_g{last}"], state[f"{prefix}mlp.fc1_x{last}"] = gate, value
    how = "gate and value in one layer" if packs else "gate and value as two layers"
    return [Note(action="converted", what="blocks.*.mlp.fc1", why=f"{how}, the gate first")]


def _new_head(state: dict[str, Tensor], config: ViTConfig) -> list[Note]:
    old = [name for name in state if name.partition(".")[0] in HEADS]
    shape = tuple(state["head.weight"].shape) if "head.weight" in state else None
    for name in old:
        del state[name]
    if not config.num_classes:
        return [Note(action="dropped", what="head", why="the caller asked for it, and the model has num_classes=0")]
    like = next(iter(state.values()))
    for name in HEADS if config.pool.name == "distilled" else HEADS[:1]:
        head = nn.Linear(config.embed_dim, config.num_classes, dtype=like.dtype)
        fresh = nn.Sequential(head)
        init_vit(fresh)
        state |= {f"{name}.weight": head.weight.detach(), f"{name}.bias": head.bias.detach()}
    why = f"the caller asked for it; drawn anew for {config.num_classes} classes"
    return [Note(action="reset", what="head", why=f"{why}, the source's was {shape}" if shape else why)]


def _adapt_patches(state: dict[str, Tensor], config: ViTConfig, given: Collection[str]) -> list[Note]:
    kernel, notes = state[KERNEL], []
    channels, wanted = kernel.shape[1], config.in_chans
    if channels != wanted and "in_chans" in given:
        kernel = with_channels(kernel, wanted)
        how = "repeated and scaled" if wanted > 1 else "summed"
        why = f"{channels} to {wanted} channels, {how}"
        notes.append(Note(action="resized", what=KERNEL, why=why))
    old = (kernel.shape[2], kernel.shape[3])
    if old != config.patch_size and "patch_size" in given:
        kernel = resample_patch_kernel(kernel, config.patch_size)
        sizes = f"{old[0]}x{old[1]} to {config.patch_size[0]}x{config.patch_size[1]}"
        why = f"patches of {sizes}, by FlexiViT's pseudo-inverse"
        notes.append(Note(action="resized", what=KERNEL, why=why))
    state[KERNEL] = kernel
    return notes


def with_channels(kernel: Tensor, wanted: int) -> Tensor:
    """Return a patch kernel (C, in_chans, h, w) for other channels: repeated and scaled, or summed to one."""
    channels = kernel.shape[1]
    if wanted == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeated = kernel.repeat(1, math.ceil(wanted / channels), 1, 1)[:, :wanted]
    return repeated * (channels / wanted)


def _adapt_positions(state: dict[str, Tensor], config: ViTConfig, settings: Mapping[str, Any]) -> list[Note]:
    table = state[TABLE]
    prefix = 0 if config.no_embed_class else config.num_prefix_tokens
    new = _grid(config, drop_rest=bool(config.patch_embed.args.get("drop_rest", False)))
    old = _old_grid(table.shape[1] - prefix, new, settings)
    if old is None or old == new:
        return []
    position = LearnedPositions(embed_dim=config.embed_dim, **config.pos_embed.args)
    state[TABLE] = position.resize(table, old, new)
    how = (
        f"{position.interpolation}, {'with' if position.antialias else 'without'} antialiasing"
        f"{', corners on corners' if position.align_corners else ''}"
    )
    why = f"a grid of {old[0]}x{old[1]} to {new[0]}x{new[1]}, {how}"
    return [Note(action="resized", what=TABLE, why=why)]


def _old_grid(patches: int, new: tuple[int, int], settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the grid of a table: what the source says, if it fits; else the model's, if it fits; else a square."""
    if "img_size" in settings and "patch_size" in settings:
        fields = ("img_size", "patch_size", "patch_embed", "dynamic_img_pad")
        said = ViTConfig().with_changes(**{name: settings[name] for name in fields if name in settings})
        grid = _grid(said, drop_rest=not said.dynamic_img_pad)
        if math.prod(grid) == patches:
            return grid
    if math.prod(new) == patches:
        return new
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None


def _grid(config: ViTConfig, *, drop_rest: bool) -> tuple[int, int]:
    step = config.patch_embed.args.get("stride", config.patch_size)
    rows, columns = (step, step) if isinstance(step, int) else step
    size, pad = config.patch_size, config.dynamic_img_pad
    return grid_of(*config.img_size, patch_size=size, stride=(rows, columns), pad=pad, drop_rest=drop_rest)
