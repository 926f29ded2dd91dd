"""Checks of norms and MLPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.registry import Entry
from vitzoo.testing.check import Check
from vitzoo.testing.parts import Kind, Part, part_checks, tokens
from vitzoo.testing.tiny import tiny

NORM = Kind(find=lambda model: model.norm, call=lambda norm, x: norm(x), inputs=tokens)
MLP = Kind(find=lambda model: model.blocks[0].mlp, call=lambda mlp, x: mlp(x), inputs=tokens)


def norm_checks(entry: Entry) -> list[Check]:
    """Return the checks of a norm."""
    return part_checks(
        entry, NORM, {"shape": check_shape, "token_by_token": check_token_by_token, "heads": check_heads}
    )


def mlp_checks(entry: Entry) -> list[Check]:
    """Return the checks of an MLP."""
    own = {"shape": check_shape, "token_by_token": check_token_by_token, "drop": check_drop, "norm": check_norm}
    return part_checks(entry, MLP, {**own, "bias": check_bias})


def check_shape(part: Part) -> None:
    """(..., C) in, (..., C) out."""
    module = part.module()
    for x in (tokens(), tokens()[0], tokens()[:, None]):
        out = part.call(module, x)
        assert out.shape == x.shape, f"{tuple(x.shape)} gives {tuple(out.shape)}; the protocol is (..., C) to (..., C)"


def check_token_by_token(part: Part) -> None:
    """Each token's result depends on that token alone."""
    module, x = part.module().double(), tokens().double()
    other = x.clone()
    other[:, 0] = torch.randn_like(other[:, 0])
    with torch.no_grad():
        moved = (part.call(module, x) - part.call(module, other))[:, 1:].abs().max()
    assert moved == 0, f"changing one token changes the results of others by up to {float(moved):.2e}"


def check_heads(part: Part) -> None:
    """Queries and keys are normalised head by head: (B, N, H, D) with the width D."""
    attention: Any = tiny(part.entry, qk_norm=True).blocks[0].attn  # type: ignore[index, union-attr]
    x = torch.randn(2, 5, 2, 16)
    out = attention.q_norm(x)
    assert out.shape == x.shape, f"for queries {tuple(x.shape)} a norm of width 16 gives {tuple(out.shape)}"


def check_drop(part: Part) -> None:
    """`drop` drops while training, and never else."""
    plain, dropping = part.module(), part.module(proj_drop_rate=0.5)
    x = tokens()
    with torch.no_grad():
        expected = part.call(plain, x)
        assert torch.equal(part.call(dropping, x), expected), "drop=0.5 changes the result in eval mode"
        assert not torch.equal(part.call(dropping.train(), x), expected), (
            "drop=0.5 changes nothing while training: the argument is ignored"
        )


def check_norm(part: Part) -> None:
    """`norm` makes a norm of the hidden layer, which is applied."""
    plain, normed = _modules(part.module()), _modules(part.module(scale_mlp_norm=True, norm="rmsnorm"))
    assert normed > plain, (
        "norm= was given, and no norm was made: the sub-LN that scale_mlp_norm=True asks for would be dropped silently"
    )
    module = part.module(scale_mlp_norm=True, norm="rmsnorm")
    hits: list[Tensor] = []
    for child in module.modules():
        if isinstance(child, nn.RMSNorm):
            child.register_forward_hook(lambda _, __, out: hits.append(out))
    part.call(module, tokens())
    assert hits, "the norm that norm= made is never called"


def check_bias(part: Part) -> None:
    """`bias` gives the layers a bias or none."""
    counts = {bias: sum(p.numel() for p in part.module(proj_bias=bias).parameters()) for bias in (True, False)}
    assert counts[True] > counts[False], "bias=True and bias=False give the same parameters: the argument is ignored"
    part.call(part.module(proj_bias=False), tokens())


def _modules(module: nn.Module) -> int:
    return sum(isinstance(child, nn.RMSNorm) for child in module.modules())
