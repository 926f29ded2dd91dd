"""First values of weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from vitzoo.errors import ConfigError, suggestion

MODES = ("", "jax", "jax_nlhb", "moco", "reset")


@torch.no_grad()
def init_vit(module: nn.Module, mode: str = "", *, needs_reset: bool = False, num_classes: int = 0) -> None:
    """Draw the weights of a ViT or of a part of one.

    Args:
        module: the model, or a part that was just made.
        mode: '': linear layers from normal(0.02), which timm's trunc_normal (cut at 100 standard deviations) is in
            effect; 'jax' and 'jax_nlhb' (negative log head bias): as in Flax; 'moco': as in MoCo v3; 'reset': torch's.
        needs_reset: reset the parts too that draw their weights when they are made.
        num_classes: for 'jax_nlhb'.

    Raises:
        ConfigError: no such mode.
    """
    if mode not in MODES:
        raise ConfigError(f"unknown weight initialisation {mode!r}.{suggestion(mode, MODES)}")
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and mode != "reset":
            _init_linear(part, name, mode, num_classes)
        elif isinstance(part, nn.Conv2d) and mode.startswith("jax"):
            # LeCun's normal, cut at two standard deviations, which narrows it by the factor below.
            std = math.sqrt(1 / part.weight[0].numel()) / 0.87962566103423978
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
            _zero(part.bias)
        elif needs_reset and part is not module:
            _call_if_present(part, "reset_parameters")
    for part in module.modules():
        if part is not module:
            _call_if_present(part, "init_weights")


def _init_linear(layer: nn.Linear, name: str, mode: str, num_classes: int) -> None:
    if mode == "":
        nn.init.normal_(layer.weight, std=0.02)
        _zero(layer.bias)
    elif mode == "moco":
        if name.endswith("qkv"):
            limit = math.sqrt(6 / (layer.weight.shape[0] // 3 + layer.weight.shape[1]))
            nn.init.uniform_(layer.weight, -limit, limit)
        else:
            nn.init.xavier_uniform_(layer.weight)
        _zero(layer.bias)
    elif name.startswith("head"):
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, -math.log(num_classes) if mode == "jax_nlhb" and num_classes else 0.0)
    else:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None and ".mlp." in name:
            nn.init.normal_(layer.bias, std=1e-6)
        else:
            _zero(layer.bias)


def _call_if_present(part: nn.Module, method: str) -> None:
    function = getattr(part, method, None)
    if callable(function):
        function()


def _zero(bias: torch.Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
