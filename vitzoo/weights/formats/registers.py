"""Positions of a class token in models with registers: a row of the table there, part of the token here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitzoo.weights.report import Note


def fold_class_position(state: dict[str, Tensor]) -> list[Note]:
    """Add the class token's position to the token, in place, when there are registers: these have no positions."""
    if "reg_token" not in state or "cls_token" not in state or "pos_embed" not in state:
        return []
    table = state["pos_embed"]
    state["cls_token"] = state["cls_token"] + table[:, :1]
    state["pos_embed"] = table[:, 1:]
    return [Note(action="folded", what="pos_embed[:, 0]", why="into cls_token, so that patches alone have positions")]


def unfold_class_position(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Note]]:
    """Return the tensors with a row of zeros for the class token, whose position is part of the token."""
    table = state["pos_embed"]
    row = torch.zeros_like(table[:, :1])
    note = Note(action="added", what="pos_embed[:, 0]", why="zeros; the class token holds its position")
    return {**state, "pos_embed": torch.cat([row, table], dim=1)}, [note]
