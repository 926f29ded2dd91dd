"""Where weights come from: files, directories and the hub. Nothing is unpickled, and no path in a file is trusted."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError, UnsafeFileError
from vitzoo.weights.report import WeightsFile

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE, IMAGES_FILE = "config.json", "preprocessor_config.json"
OPEN_CLIP_FILE, OPEN_CLIP_CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
CARD_FILE = "README.md"
HUB_PREFIX = "hf-hub:"
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar")

# Where a directory may keep its weights and what describes them, the first that is there.
LAYOUTS = (
    (WEIGHTS_FILE, CONFIG_FILE),
    (INDEX_FILE, CONFIG_FILE),
    (OPEN_CLIP_FILE, OPEN_CLIP_CONFIG),
    ("pytorch_model.bin", CONFIG_FILE),
    ("open_clip_pytorch_model.bin", OPEN_CLIP_CONFIG),
)

# Training scripts keep the weights under one of these keys, beside the optimizer's state and the epoch. Of the averaged
# weights and the last ones timm reads the averaged, whose accuracy it logs.
AVERAGED = ("state_dict_ema", "model_ema")
WRAPPERS = (*AVERAGED, "state_dict", "model", "model_state_dict", "module")

# What torch's DistributedDataParallel and torch.compile put before the names of a model that they wrap.
PREFIXES = ("module.", "_orig_mod.")

_AGAIN = "copy or download it again"
_HOLDS_OBJECTS = (
    "{!r} holds Python objects, not tensors alone; reading them would run code from the file. "
    "vitzoo never does that: load it where you trust it, and save the tensors with safetensors"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights as they lie in files.

    Args:
        name: what the caller asked for.
        state: {name: tensor}, on the CPU, under the names of the files without `prefix`.
        prefix: what stood before every name because torch had wrapped the model, such as 'module.'; mostly ''.
        averaged: under which key of a training checkpoint its averaged weights were read, not the last; mostly ''.
        config: the JSON object that a directory keeps beside its weights, or None.
        images: the JSON object of preprocessor_config.json, or None.
        files: the files that the tensors were read from.
        revision: the commit of a hub repository, else None.
    """

    name: str
    state: Mapping[str, Tensor]
    prefix: str = ""
    averaged: str = ""
    config: Mapping[str, Any] | None = None
    images: Mapping[str, Any] | None = None
    files: tuple[WeightsFile, ...] = ()
    revision: str | None = None


def open_source(source: str | Path, *, found: Path | None = None) -> Source:
    """Read a file, a directory or a hub repository.

    Args:
        source: a .safetensors, .npz or torch file; a directory with model.safetensors, its shards and their index,
            open_clip_model.safetensors or pytorch_model.bin; or 'hf-hub:org/name[@revision]'.
        found: what `find_directory` returned for it, when that is known.

    Raises:
        CheckpointError: no such path, a damaged file, or a file that holds no tensors by name.
        UnsafeFileError: a file that could only be read by unpickling code.
    """
    path = find_directory(source) if found is None else found
    config = images = None
    files, sharded = [path], False
    if path.is_dir():
        weights, beside = _layout_of(path)
        config, images = _json_in(path / beside), _json_in(path / IMAGES_FILE)
        sharded = weights == INDEX_FILE
        files = _shards(path) if sharded else [path / weights]
    state: dict[str, Tensor] = {}
    averaged = ""
    for file in files:
        tensors, averaged = _read_file(file)
        if twice := sorted(set(state) & set(tensors)):
            raise CheckpointError(f"{str(file)!r} holds {twice[0]!r}, which another shard holds too")
        state |= tensors
    if sharded:
        _check_index(path, state)
    prefix = prefix_of(state)
    return Source(
        name=str(source),
        state={name.removeprefix(prefix): tensor for name, tensor in state.items()},
        prefix=prefix,
        averaged=averaged,
        config=config,
        images=images,
        files=tuple(WeightsFile.at(file) for file in files),
        revision=path.name if str(source).startswith(HUB_PREFIX) else None,
    )


def find_directory(source: str | Path) -> Path:
    """Return the local directory or file that `source` names, downloading it first when it is on the hub.

    Args:
        source: a path, 'hf-hub:org/name[@revision]', or an https:// address that ends in its file's hash.

    Raises:
        CheckpointError: there is no such path, or the hub refuses it.
    """
    text = str(source)
    if text.startswith("https://"):
        from vitzoo.weights.address import download_address

        return download_address(text)
    if not text.startswith(HUB_PREFIX):
        path = Path(source)
        if not path.exists():
            raise CheckpointError(
                f"there is no file or directory {str(path)!r}; weights are a .safetensors or .pth file, a directory "
                f"that vitzoo.save wrote, or '{HUB_PREFIX}org/name[@revision]'"
            )
        return path
    from vitzoo.weights.hub import download

    return download(text)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: it is not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or not JSON: {error}; {_AGAIN}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} holds {type(data).__name__}, not a JSON object")
    return data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, on the CPU.

    Raises:
        CheckpointError: a damaged file, of a kind that vitzoo does not read, or with no tensors by name.
        UnsafeFileError: a file that could only be read by unpickling code.
    """
    return _read_file(path)[0]


def _read_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of one file, and `Source.averaged`."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ""
    if path.name.endswith(TORCH_SUFFIXES):
        return _read_torch(path)
    if path.suffix == ".npz":
        return _read_npz(path), ""
    possible = ", ".join((".safetensors", *TORCH_SUFFIXES, ".npz"))
    raise CheckpointError(f"{str(path)!r} is no file of weights that vitzoo reads (possible: {possible})")


def prefix_of(state: Mapping[str, Tensor]) -> str:
    """Return what torch's wrappers have put before every name."""
    prefix = ""
    while more := [p for p in PREFIXES if state and all(name.startswith(prefix + p) for name in state)]:
        prefix += more[0]
    return prefix


def _json_in(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _layout_of(folder: Path) -> tuple[str, str]:
    for weights, config in LAYOUTS:
        if (folder / weights).is_file():
            return weights, config
    names = ", ".join(weights for weights, _ in LAYOUTS[1:])
    raise CheckpointError(f"the directory {str(folder)!r} holds no {WEIGHTS_FILE} (nor {names})")


def shard_names(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, sorted.

    Raises:
        CheckpointError: the index is damaged, or a name in it is not that of a file beside it.
    """
    names = list(_weight_map(index.parent).values())
    for name in names:
        # The index comes with the weights, so it may be anyone's: a name in it must not lead out of the directory.
        if not isinstance(name, str) or name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX_FILE} names the shard {name!r}; a shard is a .safetensors file in the same directory"
            )
    return sorted(set(names))


def _shards(folder: Path) -> list[Path]:
    names = shard_names(folder / INDEX_FILE)
    for name in names:
        if not _is_there(folder / name):
            raise CheckpointError(f"{INDEX_FILE} names the shard {name!r}, which is not in {str(folder)!r}")
    return [folder / name for name in names]


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file has, such as one of 5000 letters
        return False


def _weight_map(folder: Path) -> dict[str, Any]:
    index = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{str(folder / INDEX_FILE)!r} has no 'weight_map' from tensors to shards")
    return index


def _check_index(folder: Path, state: Mapping[str, Tensor]) -> None:
    promised = set(_weight_map(folder))
    if promised != set(state):
        absent, surplus = sorted(promised - set(state)), sorted(set(state) - promised)
        raise CheckpointError(
            f"the shards in {str(folder)!r} do not hold what {INDEX_FILE} says: "
            f"they lack {absent[:3]}, and it does not name {surplus[:3]}"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or not a safetensors file: {error}; {_AGAIN}") from error


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _read_npz(path: Path) -> dict[str, Tensor]:
    import numpy as np

    if not _is_zip(path):
        raise CheckpointError(f"{str(path)!r} is damaged or not an .npz file of arrays; {_AGAIN}")
    try:
        # An array of Python objects is a pickle, which numpy then refuses.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # a damaged file raises what its bytes happen to say
        if "allow_pickle" in str(error):
            raise UnsafeFileError(_HOLDS_OBJECTS.format(str(path))) from error
        raise CheckpointError(f"{str(path)!r} is damaged or not an .npz file of arrays: {error}; {_AGAIN}") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], str]:
    with path.open("rb") as file:
        first = file.read(2)
    if b"PK".startswith(first) and not _is_zip(path):
        raise CheckpointError(f"{str(path)!r} is damaged or not a file that torch.save wrote: cut off; {_AGAIN}")
    if len(first) == 2 and first != b"PK" and first[:1] != b"\x80":
        raise CheckpointError(f"{str(path)!r} is damaged or not a file that torch.save wrote; {_AGAIN}")
    if len(first) == 2 and first[:1] == b"\x80" and first != b"\x80\x02":
        # torch.save writes zip files, and before 1.6 pickles of protocol 2.
        raise UnsafeFileError(_HOLDS_OBJECTS.format(str(path)))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower():
            raise UnsafeFileError(_HOLDS_OBJECTS.format(str(path))) from error
        # torch's own words advise to load the file all the same, so they stay out of the message.
        raise CheckpointError(f"{str(path)!r} is damaged or not a file that torch.save wrote; {_AGAIN}") from error
    except Exception as error:  # a damaged file raises what its bytes happen to say
        raise CheckpointError(
            f"{str(path)!r} is damaged or not a file that torch.save wrote: {error}; {_AGAIN}"
        ) from error
    return _tensors_in(content, path)


def _tensors_in(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    averaged = ""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            last = any(isinstance(content.get(key), Mapping) for key in WRAPPERS if key not in AVERAGED)
            averaged = wrapper if wrapper in AVERAGED and last else averaged
            content = content[wrapper]
    tensors = (
        {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors by name, so it is not a checkpoint")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            what = "without its numbers (meta)" if tensor.is_meta else f"in the layout {tensor.layout}"
            raise CheckpointError(f"{str(path)!r} holds {name!r} {what}; save it again as a plain tensor")
    return tensors, averaged
