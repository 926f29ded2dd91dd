"""What tensors under vitzoo's names say of their model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.weights.formats.names import depth_of

# Of the widths that were published with one number of heads, for formats whose files do not hold it.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
SAY_HEADS = "the tensors do not tell it: give num_heads=..., which divides {dim}"


def infer(
    state: Mapping[str, Tensor],
    img_size: int | Sequence[int] | None = None,
    *,
    no_embed_class: bool | None = None,
    asked: int | Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the fields of ViTConfig that names and shapes tell: sizes, tokens, biases, LayerScale, where norms stand.

    Args:
        state: tensors under vitzoo's names, with a convolution as patch embedding.
        img_size: (height, width) or one side, when the source says it; None: the positions are those of a square.
        no_embed_class: whether the prefix tokens have no positions, when the source says it; a small table fits both.
        asked: the size that the caller wants, taken as the source's if its positions are no square's and fit it.

    Raises:
        CheckpointError: a tensor that every ViT has is absent or has another shape, or the positions fit no image.
    """
    kernel = _tensor(state, "patch_embed.proj.weight", 4)
    dim, in_chans, patch_h, patch_w = kernel.shape
    settings: dict[str, Any] = {
        "embed_dim": dim,
        "in_chans": in_chans,
        "patch_size": (patch_h, patch_w),
        "depth": depth_of(state),
        "class_token": "cls_token" in state,
        "dist_token": "dist_token" in state,
        "reg_tokens": state["reg_token"].shape[1] if "reg_token" in state else 0,
        "mask_token": "mask_token" in state,
        "pre_norm": "norm_pre.weight" in state,
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "fc_norm": "fc_norm.weight" in state,
        "final_norm": "norm.weight" in state or "fc_norm.weight" in state,
        **_of_a_block(state, dim),
    }
    rows = _tensor(state, "pos_embed", 3).shape[1] if "pos_embed" in state else None
    if rows is None:
        settings["pos_embed"] = "none"
    possible = (False, True) if no_embed_class is None else (no_embed_class,)
    if img_size is None and asked is not None and rows is not None:
        # A config says what is wrong with a size that is none.
        height, width = ViTConfig().with_changes(img_size=asked, patch_size=1).img_size
        fits = (height // patch_h) * (width // patch_w) in (rows, rows - _prefix(settings))
        img_size = asked if fits and _square_of(rows, settings, possible[:1]) is None else None
    if img_size is not None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        settings["img_size"] = (height, width)
        if height % patch_h or width % patch_w:
            # The source's convolution passes over the pixels that make no whole patch.
            settings["patch_embed"] = ("conv", {"drop_rest": True})
        if rows is not None:
            settings["no_embed_class"] = _no_embed_class(rows, (height // patch_h) * (width // patch_w), settings)
    elif rows is not None:
        found = _square_of(rows, settings, possible)
        if found is None:
            raise CheckpointError(
                f"the position table has {rows} rows, which are no square grid with or without {_prefix(settings)} "
                "prefix tokens; nothing was loaded: give img_size=(height, width) of the images that they are for"
            )
        settings |= found
    return settings


def heads_or_unknown(
    dim: int, hints: Mapping[str, Any], published: Mapping[int, int] = HEADS
) -> tuple[dict[str, int], dict[str, str]]:
    """Return ({'num_heads': n}, {}) from the caller or the published sizes, else ({}, {'num_heads': what to do})."""
    heads = hints.get("num_heads", published.get(dim))
    if heads is None:
        return {}, {"num_heads": SAY_HEADS.format(dim=dim)}
    return {"num_heads": heads}, {}


def ratio_of(hidden: int, dim: int) -> float:
    """Return the smallest ratio r near hidden / dim for which int(dim * r) is `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _of_a_block(state: Mapping[str, Tensor], dim: int) -> dict[str, Any]:
    prefix = "blocks.0."
    packed = "blocks.0.mlp.fc1.weight" in state
    hidden = _tensor(state, f"{prefix}mlp.fc2.weight", 2).shape[1]
    fused = f"{prefix}attn.qkv.weight" in state
    has_q = f"{prefix}attn.q_bias" in state or f"{prefix}attn.q_proj.bias" in state
    has_k = f"{prefix}attn.k_proj.bias" in state
    settings: dict[str, Any] = {
        "mlp_ratio": ratio_of(hidden, dim),
        "qkv_fused": fused,
        "qkv_bias": True if f"{prefix}attn.qkv.bias" in state or has_k else "qv" if has_q else False,
        "proj_bias": f"{prefix}attn.proj.bias" in state,
        "init_values": 1e-5 if f"{prefix}ls1.gamma" in state else None,
    }
    if not packed:
        settings["mlp"] = "swiglu"
    elif state[f"{prefix}mlp.fc1.weight"].shape[0] == 2 * hidden:
        settings["mlp"] = "swiglu_packed"
    return settings


def _prefix(settings: Mapping[str, Any]) -> int:
    return int(settings["class_token"]) + int(settings["dist_token"]) + int(settings["reg_tokens"])


def _no_embed_class(rows: int, patches: int, settings: Mapping[str, Any]) -> bool:
    prefix = _prefix(settings)
    if rows not in (patches, patches + prefix):
        raise CheckpointError(
            f"the position table has {rows} rows, and an image of {settings['img_size']} has {patches} patches and "
            f"{prefix} prefix tokens; nothing was loaded"
        )
    return prefix > 0 and rows == patches


def _square_of(rows: int, settings: Mapping[str, Any], possible: Sequence[bool]) -> dict[str, Any] | None:
    prefix = _prefix(settings)
    for no_embed_class in possible:
        patches = rows - (0 if no_embed_class else prefix)
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            patch_h, patch_w = settings["patch_size"]
            return {"img_size": (side * patch_h, side * patch_w), "no_embed_class": no_embed_class and prefix > 0}
    return None


def _tensor(state: Mapping[str, Tensor], name: str, dims: int) -> Tensor:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != dims:
        what = "is absent" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise CheckpointError(f"these weights are no plain ViT: {name} {what}; nothing was loaded")
    return tensor
