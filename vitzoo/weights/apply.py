"""Putting tensors into a model: all of them, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vitzoo.errors import CheckpointError

SHOWN = 6


def apply_weights(model: nn.Module, state: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype) -> None:
    """Replace every weight of the model, or raise and leave it as it was.

    Args:
        model: it may be on the meta device.
        state: {name: tensor}, under the model's own names.
        device: where the weights go.
        dtype: what floating point weights become.

    Raises:
        CheckpointError: names are missing or unexpected, shapes differ, or weights are no floating point numbers; the
            message lists them all.
    """
    check_fit(model, state)
    ready = {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for name, tensor in state.items()
    }
    model.load_state_dict(ready, strict=True, assign=True)


def check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless names and shapes are exactly the model's, and weights floating point numbers."""
    own = model.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    mismatched = [
        f"{name} {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(state))
        if own[name].shape != state[name].shape
    ]
    whole = [
        f"{name} {str(state[name].dtype).removeprefix('torch.')}"
        for name in sorted(set(own) & set(state))
        if own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    if not (missing or unexpected or mismatched or whole):
        return
    lines = ["the weights do not fit the model; nothing was loaded."]
    lines += [
        f"  {label} ({len(names)}): {_shown(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mismatched", mismatched),
            ("of a wrong dtype", whole),
        )
        if names
    ]
    if whole:
        lines.append("  Weights are floating point numbers: write these as such again, with what quantised them")
    problems = {line.split(" ")[0].partition(".")[0] for line in [*missing, *unexpected, *mismatched]}
    if problems <= {"head", "head_dist"}:
        lines.append(
            "  Only the head differs: pass reset='head' to draw a new one, or create the model with the checkpoint's "
            "num_classes"
        )
    elif problems <= {"pos_embed", "patch_embed"}:
        lines.append(
            "  Only sizes differ: pass img_size=, patch_size= or in_chans= to have the weights resized to them; "
            "positions of a grid that is no square need the config.json that they were saved with"
        )
    raise CheckpointError("\n".join(lines))


def _shown(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
