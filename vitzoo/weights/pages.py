"""Giving back the memory of tensors that were only read to be converted.

safetensors maps a file into memory, and its pages count once they are read. Converting reads some tensors (q, k and v,
to put them into one), and the mapping keeps their pages for as long as one tensor of the file is in use.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.weights.report import WeightsFile
from vitzoo.weights.source import Source, read_tensors


def on_fresh_pages(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Return the tensors, those that were taken from mapped files unchanged on a mapping that nobody has read yet.

    Args:
        state: tensors made from `source`. The old pages go when it and `source` are gone.
        source: what was read. Files other than safetensors are not mapped, and stay as they are.

    Raises:
        CheckpointError: a file is not the one that was read any more.
    """
    old = {_address(tensor): name for name, tensor in source.state.items() if tensor.numel()}
    mapped = bool(source.files) and all(file.path.suffix == ".safetensors" for file in source.files)
    if not mapped or all(_address(tensor) in old for tensor in state.values()):
        return dict(state)
    fresh: dict[str, Tensor] = {}
    for file in source.files:
        fresh |= {name.removeprefix(source.prefix): tensor for name, tensor in read_tensors(file.path).items()}
        if WeightsFile.at(file.path) != file:
            raise CheckpointError(f"{str(file.path)!r} changed while it was read; nothing was loaded: load it again")
    return {
        name: _view(fresh[old[address]], tensor) if (address := _address(tensor)) in old else tensor
        for name, tensor in state.items()
    }


def _view(fresh: Tensor, like: Tensor) -> Tensor:
    """Return the part of `fresh`'s memory that `like` is of its own, in the same shape."""
    empty = torch.empty(0, dtype=like.dtype)
    return empty.set_(fresh.untyped_storage(), like.storage_offset(), like.shape, like.stride())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
