"""vitzoo's own config.json: what builds a model again, as names and JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from vitzoo.catalog import find_model
from vitzoo.config import Component, ViTConfig
from vitzoo.errors import CheckpointError, ConfigError, PluginError
from vitzoo.plugin import get_registry, plugins, requirements
from vitzoo.preprocess import Preprocess
from vitzoo.weights.source import CONFIG_FILE

FORMAT = 1
KEYS = ("format", "model", "config", "preprocess", "requires")
OPTIONAL_KEYS = ("labels",)


def describe(model: nn.Module) -> dict[str, Any]:
    """Return what config.json holds: `KEYS` and, for named classes, `labels`; names and JSON values alone.

    Raises:
        CheckpointError: the model was not made by `vitzoo.create`.
    """
    name, config = getattr(model, "model_name", None), getattr(model, "config", None)
    if not isinstance(name, str) or not isinstance(config, ViTConfig | Mapping):
        raise CheckpointError(
            f"{type(model).__name__} was not made by vitzoo.create, so vitzoo cannot write how to build it again; "
            "of a wrapper save the model inside: .model with features_only=True, .module with DataParallel"
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
        **({"labels": list(labels)} if (labels := getattr(model, "labels", ())) else {}),
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
    unknown, absent = sorted(set(data) - {*KEYS, *OPTIONAL_KEYS}), sorted(set(KEYS) - set(data))
    if unknown or absent or not isinstance(data["config"], dict) or not isinstance(data["requires"], dict):
        known = ", ".join((*KEYS, *OPTIONAL_KEYS))
        raise ConfigError(f"{CONFIG_FILE} has unknown keys {unknown} or lacks keys {absent} (its keys: {known})")
    _check_requirements(data["requires"])
    preprocess = None if data["preprocess"] is None else Preprocess(**data["preprocess"])
    if "/" in data["model"] and find_model(data["model"]).config is None:
        return data["model"], data["config"], preprocess
    return ViTConfig.from_dict(data["config"]), {}, preprocess


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
