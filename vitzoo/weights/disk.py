"""Loading and saving whole models: vitzoo's own directories, and those of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.attention.select import AttnLike
from vitzoo.config import FIELD_ALIASES, ViTConfig
from vitzoo.errors import CheckpointError, WriteError
from vitzoo.factory import Recipe, create, load_own, load_prepared, recipe_of
from vitzoo.features import FeatureExtractor
from vitzoo.files import json_text, written_together
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Writing
from vitzoo.weights.formats.choose import format_names, get_format, models_of, require_format_for
from vitzoo.weights.native import describe, parse, text_of
from vitzoo.weights.origin import metadata_of
from vitzoo.weights.prepare import NATIVE, prepare_unnamed, read_unnamed
from vitzoo.weights.report import Note
from vitzoo.weights.source import (
    CONFIG_FILE,
    LAYOUTS,
    OPEN_CLIP_CONFIG,
    WEIGHTS_FILE,
    find_directory,
    open_source,
    prefix_of,
)

# What other libraries' config.json always holds, and vitzoo's never does.
FOREIGN_KEYS = {"model_type", "architectures", "architecture"}


def load(
    path: str | Path,
    *,
    format: str | None = None,
    reset: str | Sequence[str] = (),
    attn: AttnLike = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **config: Any,
) -> nn.Module:
    """Build the model that a checkpoint describes, with its weights.

    A directory that `save` wrote is built as it says. For weights of another library the settings are inferred from
    names, shapes and the JSON beside them, with the switches of that library: eps, activation, resizing, pooling.

    Args:
        path: a directory, a file of weights, or 'hf-hub:org/name[@revision]'.
        format: the format, one of `list_components("weights")` or 'vitzoo'; detected when None.
        reset: parts to draw anew instead of loading them: 'head'.
        attn: as for `create`.
        device: as for `create`.
        dtype: as for `create`.
        **config: settings to change. Position tables are resized to another `img_size`; patch kernels to another
            `patch_size` or `in_chans`. For weights that do not tell a setting, such as `num_heads`, it is given here.

    Returns:
        The model; what was read and done is in `model.load_report`.

    Raises:
        CheckpointError: no such path, no config or weights in it, weights of no format or of several, weights that do
            not fit or do not tell all of their model; nothing was loaded.
        ConfigError: a config that is damaged or newer than this vitzoo.
        PluginError: a plugin that it needs is missing.
    """
    directory = find_directory(path)
    if is_native(directory, format):
        text = text_of(directory / CONFIG_FILE)
        target, settings, _ = parse(text)
        source = open_source(path, found=directory)
        changed = {**settings, **config}
        model = create(
            target, weights=source, format=NATIVE, reset=reset, attn=attn, device=device, dtype=dtype, **changed
        )
        described = model.model if isinstance(model, FeatureExtractor) else model
        described.model_name = json.loads(text)["model"]
    else:
        source = open_source(path, found=directory)
        parts = (reset,) if isinstance(reset, str) else tuple(reset)
        detected, reading = read_unnamed(source, given=config, format=format)
        if models_of(detected) is not None:
            asked = {FIELD_ALIASES.get(name, name): value for name, value in config.items()}
            recipe = recipe_of(str(reading.model), {**reading.settings, **asked}, attn)
            model = load_own(
                recipe,
                source,
                given=config,
                format=detected,
                reset=parts,
                reading=reading,
                device=device,
                dtype=dtype,
            )
        else:
            name, prepared = prepare_unnamed(reading, given=config, format=detected, reset=parts)
            recipe = Recipe(name=name, attn=attn, config=prepared.config)
            model = load_prepared(recipe, prepared, source, empty=None, device=device, dtype=dtype)
    return model


def save(model: nn.Module, path: str | Path, *, format: str = NATIVE) -> tuple[Note, ...]:
    """Write a model's weights, and what builds it again.

    Args:
        model: a model that `vitzoo.create` or `vitzoo.load` made.
        path: a directory, made if missing, without another layout's weights; or a .safetensors file for the weights
            alone, which is all that some formats have.
        format: 'vitzoo', or one of `list_components("weights")`.

    Returns:
        What was converted on the way, and what the format does not hold; nothing for vitzoo's own.

    Raises:
        CheckpointError: the model was not made by vitzoo, has other tensors than its config says, tied ones, or none in
            memory; the format is unknown or has no place for the model; the path does not fit the format.
        WriteError: the disk is full, or the place cannot be written to. Either all of the files are written, whole, or
            none, and what was there stays.
    """
    path = Path(path)
    if format != NATIVE and format not in format_names():
        raise CheckpointError(f"unknown format {format!r} (possible: {', '.join([NATIVE, *format_names()])})")
    description = describe(model)
    state = _state_of(model)
    if format == NATIVE:
        writing = Writing(state=state, weights_file=WEIGHTS_FILE, files={CONFIG_FILE: description})
    else:
        config, preprocess = getattr(model, "config", None), getattr(model, "preprocess", None)
        require_format_for(None if isinstance(config, ViTConfig) else description["model"], format)
        if not isinstance(preprocess, Preprocess):
            raise CheckpointError(
                f"{type(model).__name__} does not say what its images are (`preprocess`), which format {format!r} needs"
            )
        writing = get_format(format).write(state, config, preprocess)
        if getattr(model, "labels", ()):
            why = f"vitzoo writes the names of classes in the format {NATIVE!r} alone"
            writing = replace(writing, notes=(*writing.notes, Note(action="dropped", what="labels", why=why)))
    if writing.files and path.suffix != ".safetensors":
        _require_described(model, description, state)
        _require_room_for(writing.weights_file, path)
        _write(writing, path, {path / name: content for name, content in writing.files.items()}, metadata_of(model))
    elif path.suffix != ".safetensors":
        raise CheckpointError(f"format={format!r} writes one .safetensors file; got {str(path)!r}")
    else:
        _write(replace(writing, weights_file=path.name), path.parent, {}, metadata_of(model))
    return writing.notes


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to write, under the names of the model that torch.compile may have wrapped."""
    state, seen = model.state_dict(), dict[int, str]()
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(f"{name} is on the meta device and has no numbers to save: load weights first")
        if tensor.numel() and (other := seen.setdefault(tensor.data_ptr(), name)) != name:
            raise CheckpointError(
                f"{other} and {name} are one tensor, and a checkpoint keeps no ties; nothing was written: "
                "give each its own, nn.Parameter(tensor.clone())"
            )
    prefix = prefix_of(state)
    return {name.removeprefix(prefix): tensor.detach().contiguous() for name, tensor in state.items()}


def _require_described(model: nn.Module, description: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise unless what the description builds has tensors of these names and shapes."""
    config: Any = model.config
    recipe = recipe_of(config, {}, "auto") if isinstance(config, ViTConfig) else None
    with torch.device("meta"):
        own = (recipe or recipe_of(description["model"], description["config"], "auto")).build().state_dict()
    differing = [name for name in {**own, **state} if _shape(own, name) != _shape(state, name)]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{name} is {_shape(state, name)}, and the model's config says {_shape(own, name)} ({len(differing)} such "
            "tensors): nothing could load it; nothing was written. A new head comes from "
            "model.reset_classifier(num_classes), other parts from vitzoo.create; the weights alone go into a "
            ".safetensors file"
        )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(state[name].shape) if name in state else "absent"


def _require_room_for(weights_file: str, folder: Path) -> None:
    """Raise when the folder holds weights of another layout: which of the two is loaded would be chance."""
    others = [name for pair in LAYOUTS for name in pair if pair[0] != weights_file and name != CONFIG_FILE]
    if there := [name for name in others if (folder / name).is_file()]:
        raise CheckpointError(
            f"{str(folder)!r} holds {there[0]}, of another checkpoint, beside which {weights_file} could be mistaken "
            "or passed over; nothing was written: remove it, or save to another place"
        )


def is_native(path: Path, format: str | None) -> bool:
    """Whether `path` is a directory that `save` wrote, or a damaged one."""
    if format not in (None, NATIVE):
        return False
    config = path / CONFIG_FILE
    if format == NATIVE or (path.is_dir() and not (path / OPEN_CLIP_CONFIG).is_file()):
        if not config.is_file():
            raise CheckpointError(
                f"{str(path)!r} holds no {CONFIG_FILE}; for a file of weights alone, name the model: "
                "vitzoo.create(name, weights=file), or the format: vitzoo.load(file, format=...)"
            )
        try:
            keys = set(json.loads(config.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError):
            return True
        return "format" in keys or not keys & FOREIGN_KEYS
    return False


def _write(writing: Writing, folder: Path, files: Mapping[Path, Any], metadata: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in writing.state.items()}
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_together([folder / writing.weights_file, *files]) as (weights, *others):
            save_file(state, weights, metadata={"format": "pt", **metadata})
            for draft, content in zip(others, files.values(), strict=True):
                draft.write_text(json_text(content))
    except (OSError, SafetensorError) as error:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise WriteError(
            f"cannot save to {str(folder)!r}: {error}; what was there is as it was. Make room, or save to another place"
        ) from error
