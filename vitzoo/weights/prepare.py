"""From what lies in files to what a model takes: read by a format, with the source's switches, made to fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitzoo.catalog import find_model
from vitzoo.config import FIELD_ALIASES, Component, ViTConfig
from vitzoo.errors import CheckpointError, PluginError, UnknownNameError
from vitzoo.preprocess import Preprocess
from vitzoo.weights.adapt import adapt
from vitzoo.weights.formats.base import Reading
from vitzoo.weights.formats.choose import detect, formats_for, get_format, require_format_for
from vitzoo.weights.native import read_native
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source

NATIVE = "vitzoo"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PREFIX = "pool_include_prefix"
PLAIN_MLPS = ("gelu", "gelu_tanh", "quick_gelu", "relu")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Weights ready for a model.

    Args:
        state: {vitzoo's name: tensor}.
        config: the settings that the model is to have; None for a plugin's own model.
        options: the arguments of a plugin's own model; none for a plain ViT.
        preprocess: what the source says of its images, or None.
        format: the format's name.
        labels: the names of the classes, or none.
        notes: all that was done.
    """

    state: Mapping[str, Tensor]
    config: ViTConfig | None
    preprocess: Preprocess | None
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


def prepare(
    source: Source,
    *,
    config: ViTConfig,
    own: Collection[str],
    given: Mapping[str, Any],
    format: str | None,
    reset: Collection[str],
) -> Prepared:
    """Return weights for a plain ViT that the caller named.

    Args:
        source: what lies in the files.
        config: the named model's settings, with the caller's changes.
        own: the names of the model's tensors. Weights that have exactly these are taken as they are.
        given: the caller's changes alone: they stand whatever the source says.
        format: the format's name, or None to detect it.
        reset: parts to draw anew.

    Raises:
        CheckpointError: the weights are of no format or of several, or cannot be read.
    """
    refuse_scaled(source)
    format = format_of(source, None, own=own, format=format)
    hints = {"num_heads": config.num_heads}
    reading = read_native(source) if format == NATIVE else get_format(format).read(source, hints)
    refuse_other_numbers(source, config, reading, given)
    target, switched = with_switches(config, reading.settings, given)
    # A file alone does not tell its grid: what a format made of the number of rows is a guess.
    told = {name: value for name, value in reading.settings.items() if source.config is not None or name != "img_size"}
    state, notes = adapt(reading.state, target, settings=told, given=given, reset=reset)
    notes = [*reading.notes, *switched, *notes]
    return Prepared(
        state=state,
        config=target,
        preprocess=reading.preprocess,
        format=format,
        labels=() if reset else reading.labels,
        notes=tuple(notes),
    )


def format_of(source: Source, model: str | None, *, own: Collection[str], format: str | None) -> str:
    """Return the format in which to read weights for a named model.

    Args:
        source: what lies in the files.
        model: the name of a plugin's own model; None for a plain ViT.
        own: the names of the model's tensors.
        format: what the caller says, or None.

    Raises:
        CheckpointError: the weights are of no format, of several or of one for other models.
    """
    if format == NATIVE:
        return NATIVE
    if format is not None:
        require_format_for(model, format)
        return format
    if set(source.state) == set(own):
        # timm's names are vitzoo's: a directory of timm's has them too, and says what they leave open.
        return detect(source, among=formats_for(model), or_else=NATIVE) if _of_timm(source) else NATIVE
    # Weights with most of the model's own names are its own, damaged: what differs is what there is to say.
    mostly = 2 * len(set(source.state) & set(own)) > len(own)
    return detect(source, among=formats_for(model), or_else=NATIVE if mostly else None)


def _of_timm(source: Source) -> bool:
    """Whether the source's config.json is timm's, of an architecture that vitzoo has."""
    architecture = (source.config or {}).get("architecture")
    try:
        return isinstance(architecture, str) and find_model(architecture).name != ""
    except (UnknownNameError, PluginError):
        return False


def read_unnamed(source: Source, *, given: Mapping[str, Any], format: str | None) -> tuple[str, Reading]:
    """Return the format of weights whose model the caller did not name, and what they tell.

    Raises:
        CheckpointError: the weights are of no format or of several, cannot be read, or do not tell a setting that the
            caller did not give.
    """
    refuse_scaled(source)
    name = detect(source) if format is None else format
    reading = get_format(name).read(source, given)
    if untold := {field: advice for field, advice in reading.unknown.items() if field not in given}:
        advised = "; ".join(f"{field}: {advice}" for field, advice in untold.items())
        raise CheckpointError(
            f"the weights of {source.name} (format {name}) do not tell all of their model; nothing was loaded: "
            + advised
        )
    return name, reading


def prepare_unnamed(
    reading: Reading, *, given: Mapping[str, Any], format: str, reset: Collection[str]
) -> tuple[str, Prepared]:
    """Return what was read of a plain ViT, at the settings that it tells, and the variant's name that it gives, or ''.

    Raises:
        CheckpointError: a part that cannot be reset, or weights that the settings have no place for.
    """
    base, preprocess = ViTConfig(), reading.preprocess
    if reading.model is not None:
        found = find_model(reading.model)
        assert found.config is not None
        base, preprocess = found.config, preprocess or found.preprocess
    asked = {FIELD_ALIASES.get(name, name): value for name, value in given.items()}
    config = base.with_changes(**{**reading.settings, **asked})
    state, notes = adapt(reading.state, config, settings=reading.settings, given=given, reset=reset)
    prepared = Prepared(
        state=state,
        config=config,
        preprocess=preprocess,
        format=format,
        labels=() if reset else reading.labels,
        notes=(*reading.notes, *reading.assumed, *notes),
    )
    return reading.model or "", prepared


def with_switches(
    config: ViTConfig, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[ViTConfig, list[Note]]:
    """Return the config with the source's switches: what changes numbers and no shape.

    The norm's eps, the activation, how positions are resized, and which tokens are pooled, unless the caller gave them.
    """
    notes = []
    for slot in ("norm", "mlp", "pos_embed", "rope", "pool"):
        if slot not in settings or slot in given or (slot == "pool" and "global_pool" in given):
            continue
        mine, theirs = getattr(config, slot), Component.of(settings[slot])
        if mine == theirs or not _only_a_switch(slot, mine, theirs):
            continue
        changes: dict[str, Any] = {slot: theirs}
        if slot == "pool" and "fc_norm" not in given:
            changes["fc_norm"] = settings.get("fc_norm", False)
        config = config.with_changes(**changes)
        notes.append(Note(action="set", what=f"{slot}={theirs}", why=f"as the source computes; the name says {mine}"))
    prefix = given.get(PREFIX, settings.get(PREFIX, config.pool_include_prefix))
    if prefix != config.pool_include_prefix:
        config = config.with_changes(pool_include_prefix=prefix)
        notes.append(Note(action="set", what=f"{PREFIX}={prefix}", why="as the source computes"))
    return config, notes


def refuse_other_numbers(source: Source, config: ViTConfig, reading: Reading, given: Mapping[str, Any]) -> None:
    """Raise where the source computes otherwise than the model, and neither a shape tells it nor a switch changes it.

    Another number of heads is refused always, another rope or order in a block unless the caller gave it.
    """
    settings = reading.settings
    base = find_model(reading.model).config if reading.model is not None else None
    pairs: dict[str, tuple[Any, Any]] = {
        "num_heads": (settings.get("num_heads", base.num_heads if base else config.num_heads), config.num_heads)
    }
    for slot in ("block", "rope"):
        if slot in settings and slot not in given:
            pairs[slot] = (Component.of(settings[slot]).name, getattr(config, slot).name)
    for name, (theirs, mine) in pairs.items():
        if theirs != mine:
            raise CheckpointError(
                f"the weights of {source.name} have {name}={theirs!r}, and the model has {mine!r}: the shapes are "
                f"equal and the numbers would be wrong; nothing was loaded. Create it with {name}={theirs!r}"
            )


def refuse_scaled(source: Source) -> None:
    """Raise for complex numbers, and for floats of 8 bits and fewer, which mean nothing without their scales."""
    wrong = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in source.state.items()
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in FLOATS)
    }
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise CheckpointError(
            f"{name} is {dtype} ({len(wrong)} such tensors in {source.name}), and vitzoo reads no scales for it; "
            "nothing was loaded: write them as float16, bfloat16 or float32 again, with what quantised them"
        )


def _only_a_switch(field: str, mine: Component, theirs: Component) -> bool:
    if field == "mlp":
        return mine.name in PLAIN_MLPS and theirs.name in PLAIN_MLPS
    if field == "pool":
        return {mine.name, theirs.name} <= {"token", "avg", "avgmax", "max"}
    return mine.name == theirs.name
