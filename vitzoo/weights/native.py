"""vitzoo's own checkpoint: a directory of model.safetensors and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitzoo.attention.select import AttnLike
from vitzoo.catalog import find_model
from vitzoo.config import Component, ViTConfig
from vitzoo.errors import CheckpointError, ConfigError, PluginError
from vitzoo.factory import create
from vitzoo.files import write_json, written_whole
from vitzoo.plugin import get_registry, plugins, requirements
from vitzoo.preprocess import Preprocess
from vitzoo.weights.source import CONFIG_FILE, WEIGHTS_FILE, find_directory
from vitzoo.weights.timm import to_timm

FORMAT = 1
KEYS = ("format", "model", "config", "preprocess", "requires")
FORMATS = ("vitzoo", "timm")


def describe(model: nn.Module) -> dict[str, Any]:
    """Return what config.json holds: {format, model, config, preprocess, requires}, names and JSON values alone.

    Raises:
        CheckpointError: the model was not made by `vitzoo.create`.
    """
    name, config = getattr(model, "model_name", None), getattr(model, "config", None)
    if not isinstance(name, str) or not isinstance(config, ViTConfig | Mapping):
        raise CheckpointError(
            f"{type(model).__name__} was not made by vitzoo.create, so vitzoo cannot write how to build it again"
        )
    if isinstance(config, ViTConfig):
        settings = config.to_dict()
        names = [name, *(component.name for component in config.components())]
    else:
        # A plugin's settings pass through Component, which makes sure that they are JSON values.
        settings, names = json.loads(json.dumps(Component("model", config).args)), [name]
    preprocess = getattr(model, "preprocess", None)
    return {
        "format": FORMAT,
        "model": name,
        "config": settings,
        "preprocess": preprocess.to_dict() if isinstance(preprocess, Preprocess) else None,
        "requires": requirements(names),
    }


def parse(text: str) -> tuple[str | ViTConfig, dict[str, Any], Preprocess | None]:
    """Read a config.json: what `create` is to be called with. Nothing that it names is imported but by `create`.

    Returns:
        (a ViTConfig, {}, preprocess) for a plain ViT, or (name, settings, preprocess) for a plugin's model.

    Raises:
        ConfigError: not JSON, not of this form, or written by a newer vitzoo.
        PluginError: a plugin that it requires is missing; the message says what to install.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{CONFIG_FILE} is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise ConfigError(f"{CONFIG_FILE} is not a vitzoo config: it has no 'format' number")
    if data["format"] > FORMAT:
        raise ConfigError(
            f"{CONFIG_FILE} has format {data['format']}, written by a newer vitzoo; this one reads up to {FORMAT}: "
            "upgrade vitzoo"
        )
    unknown, absent = sorted(set(data) - set(KEYS)), sorted(set(KEYS) - set(data))
    if unknown or absent or not isinstance(data["config"], dict) or not isinstance(data["requires"], dict):
        raise ConfigError(
            f"{CONFIG_FILE} has unknown keys {unknown} or lacks keys {absent} (its keys: {', '.join(KEYS)})"
        )
    _check_requirements(data["requires"])
    preprocess = None if data["preprocess"] is None else Preprocess(**data["preprocess"])
    if "/" in data["model"] and find_model(data["model"]).config is None:
        return data["model"], data["config"], preprocess
    return ViTConfig.from_dict(data["config"]), {}, preprocess


def save(model: nn.Module, path: str | Path, *, format: str = "vitzoo") -> None:
    """Write a model's weights, and for vitzoo's format the config that builds it again.

    Args:
        model: a model that `vitzoo.create` made.
        path: for 'vitzoo' a directory, made if missing; for 'timm' a .safetensors file under timm's names.
        format: 'vitzoo' or 'timm'.

    Raises:
        CheckpointError: the model was not made by `vitzoo.create`, the format is unknown, or the file's name does not
            fit the format. A file is either written whole or not at all.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if format not in FORMATS:
        raise CheckpointError(f"unknown format {format!r} (possible: {', '.join(FORMATS)})")
    description = describe(model)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if format == "timm":
        if path.suffix != ".safetensors":
            raise CheckpointError(f"format='timm' writes one .safetensors file; got {str(path)!r}")
        state = to_timm(state, eva=description["config"].get("rope", "none") != "none")
        with written_whole(path) as draft:
            save_file(state, draft, metadata={"format": "pt"})
        return
    path.mkdir(parents=True, exist_ok=True)
    with written_whole(path / WEIGHTS_FILE) as draft:
        save_file(state, draft, metadata={"format": "pt"})
    write_json(path / CONFIG_FILE, description)


def load(
    path: str | Path,
    *,
    attn: AttnLike = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **config: Any,
) -> nn.Module:
    """Build the model that a directory describes, with its weights.

    Args:
        path: a directory that `save` wrote, or 'hf-hub:org/name[@revision]' of one.
        attn: as for `create`.
        device: as for `create`.
        dtype: as for `create`.
        **config: settings to change; the weights must still fit.

    Raises:
        CheckpointError: no such directory, no config or weights in it, or weights that do not fit; nothing was loaded.
        ConfigError: a config that is damaged or newer than this vitzoo.
        PluginError: a plugin that it needs is missing.
    """
    directory = find_directory(path)
    if not (directory / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{str(directory)!r} holds no {CONFIG_FILE}; for a file of weights alone, "
            "name the model: vitzoo.create(name, weights=file)"
        )
    text = (directory / CONFIG_FILE).read_text()
    target, settings, preprocess = parse(text)
    model = create(target, weights=str(directory), attn=attn, device=device, dtype=dtype, **{**settings, **config})
    model.model_name = json.loads(text)["model"]
    if preprocess is not None:
        model.preprocess = preprocess  # type: ignore[assignment]
    return model


def _refuse_constant(text: str) -> Any:
    raise ConfigError(f"{CONFIG_FILE} holds {text}, which is not a finite number")


def _check_requirements(requires: Mapping[str, Any]) -> None:
    statuses = plugins()
    registered = {entry.provider for entry in get_registry().entries()}
    for name, needed in requires.items():
        if name in registered:
            continue
        package = (needed or {}).get("distribution")
        status = statuses.get(name)
        if status is not None:
            raise PluginError(
                f"this model needs plugin {name!r}, which is not available ({status.state}): {status.detail}"
            )
        install = f"pip install {package}=={needed['version']}" if package else "run the code that registers it first"
        raise PluginError(f"this model needs plugin {name!r}, which is not installed: {install}")
