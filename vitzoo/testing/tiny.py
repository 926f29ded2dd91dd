"""A ViT small enough for checks, with the part under test in its slot, and an attention backend that keeps calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import vitzoo
from vitzoo.attention.caps import AttentionCaps
from vitzoo.config import Component
from vitzoo.plugin import get_registry
from vitzoo.registry import Entry

# No two sizes are equal, so that none can stand in for another; the grid is 4 rows of 6 patches.
TINY: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "img_size": (32, 48),
    "patch_size": 8,
    "num_classes": 5,
    "reg_tokens": 2,
}
GRID = (4, 6)
NUM_PATCHES = GRID[0] * GRID[1]
BATCH = 2
SPY = "testing/spy"


def component_of(entry: Entry) -> Component:
    """Return the component with the arguments that its registration gives for tests (`test_args`)."""
    return Component(entry.name, entry.meta.get("test_args", {}))


def tiny(entry: Entry, *, seed: int = 0, attn: str = "auto", **changes: Any) -> nn.Module:
    """Return a tiny ViT with the component in its slot, in eval mode, every parameter random.

    Args:
        entry: the component; its `test_config` sets what it needs of the ViT around it.
        seed: of all weights.
        attn: the attention backend.
        **changes: settings of ViTConfig.
    """
    torch.manual_seed(seed)
    own = entry.meta.get("test_config", {})
    fixed = sorted(set(own) & set(TINY))
    assert not fixed, f"test_config sets {', '.join(fixed)}, which the checks have values of their own for"
    settings = {**TINY, **own, **changes, entry.kind: component_of(entry)}
    return randomise(vitzoo.create("vit_tiny", attn=attn, **settings)).eval()


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Add noise to every parameter, so that no zero hides a mistake, and return the model."""
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def images(*shape: int) -> Tensor:
    """Return random images (B, C, H, W)."""
    return torch.randn(shape or (BATCH, 3, *TINY["img_size"]))


@dataclass
class Calls:
    """The calls of attention that a spy has seen.

    Args:
        options: {name: value} of each call.
    """

    options: list[Mapping[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.options)


@contextmanager
def spied_attention() -> Iterator[Calls]:
    """Register `SPY` inside the block: a backend that runs the definition and keeps what it was called with."""
    from vitzoo_kernels import attention_reference

    calls = Calls()

    def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.options.append(options)
        return attention_reference(q, k, v, **options)

    caps = AttentionCaps(
        devices=("cpu", "cuda", "mps", "xpu", "meta"),
        dtypes=("float16", "bfloat16", "float32", "float64"),
        head_dims=None,
        backward=True,
        cross=True,
        bias=True,
        bias_grad=True,
        key_mask=True,
        dropout=True,
    )
    with get_registry().temporary():
        vitzoo.register("attention", SPY, caps=caps, doc="keeps its calls")(attend)
        yield calls
