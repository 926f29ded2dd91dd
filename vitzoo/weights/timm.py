"""timm's names. Its `VisionTransformer` and vitzoo agree; its `Eva` calls LayerScale otherwise.

Names are changed and nothing is merged, so that the way back is exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_EVA_SCALE = re.compile(r"(blocks\.\d+)\.gamma_([12])")
_OWN_SCALE = re.compile(r"(blocks\.\d+)\.ls([12])\.gamma")


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under vitzoo's names; names that are already vitzoo's stay."""
    return {_EVA_SCALE.sub(r"\1.ls\2.gamma", name): tensor for name, tensor in state.items()}


def to_timm(state: Mapping[str, Tensor], *, eva: bool) -> dict[str, Tensor]:
    """Return the tensors under the names of timm's `VisionTransformer`, or of its `Eva`."""
    if not eva:
        return dict(state)
    return {_OWN_SCALE.sub(r"\1.gamma_\2", name): tensor for name, tensor in state.items()}
