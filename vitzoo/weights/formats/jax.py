"""Google's ViTs in JAX: the .npz files of augreg and of big_vision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing
from vitzoo.weights.formats.infer import infer
from vitzoo.weights.formats.names import depth_of
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

FORMAT = "jax"
# Around the tensors of the image model.
_PREFIXES = re.compile(r"^(opt/target/|params/|img/)+")
# The numbers that flax gives to the parts of a block: augreg counts dropouts, big_vision does not.
_BLOCK = (
    (r"LayerNorm_0/(\w+)", "norm1"),
    (r"LayerNorm_[12]/(\w+)", "norm2"),
    (r"MlpBlock_[03]/Dense_0/(\w+)", "mlp.fc1"),
    (r"MlpBlock_[03]/Dense_1/(\w+)", "mlp.fc2"),
    (r"MultiHeadDotProductAttention_[01]/query/(\w+)", "attn.q"),
    (r"MultiHeadDotProductAttention_[01]/key/(\w+)", "attn.k"),
    (r"MultiHeadDotProductAttention_[01]/value/(\w+)", "attn.v"),
    (r"MultiHeadDotProductAttention_[01]/out/(\w+)", "attn.proj"),
)
_ROOT = (
    (r"embedding/(\w+)", "patch_embed.proj"),
    (r"Transformer/encoder_norm/(\w+)", "norm"),
    (r"head/(\w+)", "head"),
    (r"MAPHead_0/LayerNorm_0/(\w+)", "attn_pool.norm"),
    (r"MAPHead_0/MlpBlock_0/Dense_0/(\w+)", "attn_pool.mlp.fc1"),
    (r"MAPHead_0/MlpBlock_0/Dense_1/(\w+)", "attn_pool.mlp.fc2"),
    (r"MAPHead_0/MultiHeadDotProductAttention_0/query/(\w+)", "attn_pool.q"),
    (r"MAPHead_0/MultiHeadDotProductAttention_0/key/(\w+)", "attn_pool.k"),
    (r"MAPHead_0/MultiHeadDotProductAttention_0/value/(\w+)", "attn_pool.v"),
    (r"MAPHead_0/MultiHeadDotProductAttention_0/out/(\w+)", "attn_pool.proj"),
)
_WHOLE = {
    "cls": "cls_token",
    "pos_embedding": "pos_embed",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "MAPHead_0/probe": "attn_pool.latent",
}
_KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_ENCODER = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")


class Jax:
    """augreg's and big_vision's ViT: tanh GELU, eps 1e-6, positions resized by scipy's zoom of order 1. Read only."""

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        names = {_PREFIXES.sub("", name) for name in source.state}
        needed = ("embedding/kernel", "Transformer/encoderblock_0/LayerNorm_0/scale")
        return [f"no {name}" for name in needed if name not in names]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        ours: dict[str, Tensor] = {}
        heads = 0
        for full_name, tensor in source.state.items():
            name = _PREFIXES.sub("", full_name)
            found = _ours(name)
            if found is None:
                ours[full_name] = tensor
                continue
            if found.endswith("attn.q.weight") and tensor.ndim == 3:
                heads = tensor.shape[1]
            ours[found] = _turned(found, tensor)
        if not heads:
            raise CheckpointError("these weights have no query kernel of shape (C, heads, width); nothing was loaded")
        for prefix in (*(f"blocks.{i}.attn." for i in range(depth_of(ours))), "attn_pool."):
            _fuse(ours, prefix)
        settings = infer(ours)
        pool = "map" if "attn_pool.latent" in ours else "token" if "cls_token" in ours else "avg"
        settings |= {
            "num_heads": heads,
            "norm": "layernorm",
            "mlp": "gelu_tanh",
            "pool": pool,
            "fc_norm": False,
            "pos_embed": ("learned", {"interpolation": "bilinear", "antialias": False, "align_corners": True}),
        }
        note = Note(action="converted", what="kernels", why="transposed, heads flattened, q, k and v in one projection")
        return Reading(state=ours, settings=settings, preprocess=Preprocess(), notes=(note,))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Raise CheckpointError: vitzoo does not write .npz files."""
        raise CheckpointError(f"format {FORMAT!r} is read, not written; write 'vitzoo', 'timm' or 'transformers'")


def _ours(name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    match = _ENCODER.fullmatch(name)
    prefix, rest, table = (f"blocks.{match[1]}.", match[2], _BLOCK) if match else ("", name, _ROOT)
    for pattern, ours in table:
        found = re.fullmatch(pattern, rest)
        if found and found[1] in _KINDS:
            return f"{prefix}{ours}.{_KINDS[found[1]]}"
    return None


def _turned(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor in torch's order: (out, in) and (out, in, height, width)."""
    if name == "patch_embed.proj.weight":
        return tensor.permute(3, 2, 0, 1)
    if re.search(r"(attn|attn_pool)\.[qkv]\.weight$", name):
        return tensor.flatten(1).T  # (C, H, D) to (H * D, C)
    if re.search(r"(attn|attn_pool)\.[qkv]\.bias$", name):
        return tensor.flatten()
    if re.search(r"(attn|attn_pool)\.proj\.weight$", name):
        return tensor.flatten(0, 1).T  # (H, D, C) to (C, H * D)
    return tensor.T if name.endswith(".weight") and tensor.ndim == 2 else tensor


def _fuse(state: dict[str, Tensor], prefix: str) -> None:
    for kind in ("weight", "bias"):
        names = [f"{prefix}{part}.{kind}" for part in "qkv"]
        if not all(name in state for name in names):
            continue
        if prefix == "attn_pool.":
            state[f"{prefix}kv.{kind}"] = torch.cat([state.pop(name) for name in names[1:]])
        else:
            state[f"{prefix}qkv.{kind}"] = torch.cat([state.pop(name) for name in names])
