"""Loading and saving whole models: vitzoo's own directories, and those of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitzoo.attention.select import AttnLike
from vitzoo.config import FIELD_ALIASES, ViTConfig
from vitzoo.errors import CheckpointError, WriteError
from vitzoo.factory import Recipe, create, load_own, load_prepared, recipe_of
from vitzoo.features import FeatureExtractor
from vitzoo.files import json_text, written_together
from vitzoo.labels import labels_of
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Writing
from vitzoo.weights.formats.choose import format_names, get_format, models_of, require_format_for
from vitzoo.weights.native import describe, parse
from vitzoo.weights.origin import metadata_of
from vitzoo.weights.prepare import NATIVE, prepare_unnamed, read_unnamed
from vitzoo.weights.report import Note
from vitzoo.weights.source import (
    CONFIG_FILE,
    OPEN_CLIP_CONFIG,
    WEIGHTS_FILE,
    find_directory,
    open_source,
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
        text = (directory / CONFIG_FILE).read_text()
        target, settings, preprocess = parse(text)
        source = open_source(path, found=directory)
        changed = {**settings, **config}
        model = create(
            target, weights=source, format=NATIVE, reset=reset, attn=attn, device=device, dtype=dtype, **changed
        )
        described = model.model if isinstance(model, FeatureExtractor) else model
        described.model_name = json.loads(text)["model"]
        if not reset:
            described.labels = labels_of(json.loads(text).get("labels", ()))  # type: ignore[assignment]
        if preprocess is not None:
            described.preprocess = preprocess  # type: ignore[assignment]
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
        path: a directory, made if missing; or a .safetensors file for the weights alone, which is all that some
            formats have.
        format: 'vitzoo', or one of `list_components("weights")`.

    Returns:
        What was converted on the way, and what the format does not hold; nothing for vitzoo's own.

    Raises:
        CheckpointError: the model was not made by vitzoo, the format is unknown or has no place for the model, or the
            file's name does not fit the format.
        WriteError: the disk is full, or the place cannot be written to. Either all of the files are written, whole, or
            none, and what was there stays.
    """
    path = Path(path)
    if format != NATIVE and format not in format_names():
        raise CheckpointError(f"unknown format {format!r} (possible: {', '.join([NATIVE, *format_names()])})")
    description = describe(model)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
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
    if format == NATIVE or (writing.files and path.suffix != ".safetensors"):
        _write(writing, path, {path / name: content for name, content in writing.files.items()}, metadata_of(model))
    elif path.suffix != ".safetensors":
        raise CheckpointError(f"format={format!r} writes one .safetensors file; got {str(path)!r}")
    else:
        _write(replace(writing, weights_file=path.name), path.parent, {}, metadata_of(model))
    return writing.notes


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
            keys = set(json.loads(config.read_text()))
        except (ValueError, TypeError):
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
