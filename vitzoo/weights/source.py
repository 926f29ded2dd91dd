"""Where weights come from: files, directories and the hub. Nothing is unpickled, and no path in a file is trusted."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError, UnsafeFileError

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
HUB_PREFIX = "hf-hub:"
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")

# Training scripts keep the weights under one of these keys, beside the optimizer's state and the epoch.
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")

_HOLDS_OBJECTS = (
    "{!r} holds Python objects, not tensors alone; reading them would run code from the file. "
    "vitzoo never does that: load it where you trust it, and save the tensors with safetensors"
)


def find_directory(source: str | Path) -> Path:
    """Return the local directory or file that `source` names, downloading it first when it is on the hub.

    Args:
        source: a path, or 'hf-hub:org/name[@revision]'.

    Raises:
        CheckpointError: there is no such path.
    """
    text = str(source)
    if not text.startswith(HUB_PREFIX):
        path = Path(source)
        if not path.exists():
            raise CheckpointError(
                f"there is no file or directory {str(path)!r}; weights are a .safetensors or .pth file, a directory "
                f"that vitzoo.save wrote, or '{HUB_PREFIX}org/name[@revision]'"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
    wanted = [CONFIG_FILE, WEIGHTS_FILE]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(f"cannot get {repository!r} from the hub: {error}") from error


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file, of a directory's model.safetensors, or of a hub repository, on the CPU.

    Raises:
        CheckpointError: no such path, a damaged file, or a file that holds no tensors by name.
        UnsafeFileError: a file that could only be read by unpickling code.
    """
    path = find_directory(source)
    if path.is_dir():
        if not (path / WEIGHTS_FILE).is_file():
            raise CheckpointError(f"the directory {str(path)!r} holds no {WEIGHTS_FILE}")
        path = path / WEIGHTS_FILE
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    raise CheckpointError(
        f"{str(path)!r} is no file of weights that vitzoo reads (possible: .safetensors, {', '.join(TORCH_SUFFIXES)})"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or not a safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        first = file.read(2)
    if first[:1] == b"\x80" and first != b"\x80\x02":
        # torch.save writes zip files, and before 1.6 pickles of protocol 2.
        raise UnsafeFileError(_HOLDS_OBJECTS.format(str(path)))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower():
            raise UnsafeFileError(_HOLDS_OBJECTS.format(str(path))) from error
        # torch's own words advise to load the file all the same, so they stay out of the message.
        raise CheckpointError(f"{str(path)!r} is damaged or not a file that torch.save wrote") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or not a file that torch.save wrote: {error}") from error
    return _tensors_in(content, path)


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors by name, so it is not a checkpoint")
    return tensors
