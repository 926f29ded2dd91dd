"""vitzoo's own config.json: what builds a model again, as names and JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vitzoo.catalog import find_model
from vitzoo.config import Component, ViTConfig
from vitzoo.errors import CheckpointError, ConfigError, PluginError
from vitzoo.labels import labels_of
from vitzoo.plugin import get_registry, plugins, requirements
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading
from vitzoo.weights.source import CONFIG_FILE, Source

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


def read_native(source: Source) -> Reading:
    """Return weights under vitzoo's own names, with what the config.json that `save` wrote beside them says.

    Raises:
        ConfigError: that config.json is damaged, or was written by a newer vitzoo.
    """
    state = dict(source.state)
    if source.config is None or "format" not in source.config:
        return Reading(state=state)
    data = _checked(source.config)
    return Reading(
        state=state,
        settings=data["config"],
        preprocess=_preprocess_of(data),
        labels=labels_of(data.get("labels", ())),
    )


def text_of(path: Path) -> str:
    """Return what a config.json holds.

    Raises:
        ConfigError: it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{CONFIG_FILE} is not JSON: {error}") from error


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
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{CONFIG_FILE} is not JSON: {error}") from error
    data = _checked(data)
    _check_requirements(data["requires"])
    preprocess = _preprocess_of(data)
    if "/" in data["model"] and find_model(data["model"]).config is None:
        return data["model"], data["config"], preprocess
    return ViTConfig.from_dict(data["config"]), {}, preprocess


def _checked(data: Any) -> Mapping[str, Any]:
    """Return what config.json holds when it has the form that `describe` gives it."""
    if not isinstance(data, Mapping) or type(data.get("format")) is not int or data["format"] < 1:
        raise ConfigError(f"{CONFIG_FILE} is not a vitzoo config: it has no 'format' number")
    if data["format"] > FORMAT:
        raise ConfigError(
            f"{CONFIG_FILE} has format {data['format']}, written by a newer vitzoo; this one reads up to {FORMAT}: "
            "upgrade vitzoo"
        )
    unknown, absent = sorted(set(data) - {*KEYS, *OPTIONAL_KEYS}), sorted(set(KEYS) - set(data))
    if unknown or absent:
        known = ", ".join((*KEYS, *OPTIONAL_KEYS))
        raise ConfigError(f"{CONFIG_FILE} has unknown keys {unknown} or lacks keys {absent} (its keys: {known})")
    labels, requires = data.get("labels", []), data["requires"]
    right = {
        "model": isinstance(data["model"], str),
        "config": isinstance(data["config"], Mapping),
        "preprocess": isinstance(data["preprocess"], Mapping | None),
        "requires": isinstance(requires, Mapping) and all(map(_is_requirement, requires.values())),
        "labels": isinstance(labels, list) and all(isinstance(label, str) for label in labels),
    }
    if wrong := [name for name, fits in right.items() if not fits]:
        raise ConfigError(f"{CONFIG_FILE} is damaged: {wrong[0]}={data[wrong[0]]!r} is no value of that key")
    return data


def _is_requirement(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return value is None
    package, version = value.get("distribution"), value.get("version")
    return package is None or (isinstance(package, str) and isinstance(version, str))


def _preprocess_of(data: Mapping[str, Any]) -> Preprocess | None:
    values = data["preprocess"]
    if values is None:
        return None
    try:
        images = Preprocess(**values)
        numbers = all(map(math.isfinite, (*images.mean, *images.std, images.crop_pct)))
    except TypeError as error:
        raise ConfigError(f"{CONFIG_FILE} is damaged: preprocess={values!r}: {error}") from error
    if not numbers:
        raise ConfigError(f"{CONFIG_FILE} is damaged: preprocess={values!r} holds a number that is not finite")
    return images


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
