"""Weights on their way into a plugin's own model: read by a format that is for it, adapted by the model itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vitzoo.errors import CheckpointError
from vitzoo.init import init_vit
from vitzoo.weights.adapt import RESETTABLE
from vitzoo.weights.formats.base import Reading
from vitzoo.weights.formats.choose import get_format
from vitzoo.weights.native import read_native
from vitzoo.weights.prepare import NATIVE, Prepared, format_of, refuse_scaled
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source


def prepare_own(
    source: Source,
    *,
    name: str,
    options: Mapping[str, Any],
    build: Callable[[Mapping[str, Any]], nn.Module],
    given: Mapping[str, Any],
    format: str | None,
    reset: Collection[str],
    reading: Reading | None = None,
) -> tuple[Prepared, nn.Module]:
    """Return weights for a plugin's own model, and the model on the meta device.

    Args:
        source: what lies in the files.
        name: the model's name.
        options: its arguments.
        build: makes the model of given arguments, on the meta device.
        given: the caller's arguments alone: they stand whatever the source says.
        format: the format's name, or None to detect it.
        reset: parts to draw anew; 'head'.
        reading: what was read already, in that format, where the caller did not name the model.

    Raises:
        CheckpointError: the weights are of no format for this model or of several, or cannot be read; or a part that
            cannot be reset.
    """
    if unknown := sorted(set(reset) - set(RESETTABLE)):
        raise CheckpointError(f"reset={unknown[0]!r} is unknown (possible: {', '.join(map(repr, RESETTABLE))})")
    refuse_scaled(source)
    model: Any = build(options)
    notes: list[Note] = []
    if reading is not None:
        notes += [*reading.notes, *reading.assumed]
        assert format is not None
    else:
        format = format_of(source, name, own=model.state_dict(), format=format)
        reading = _read(source, format, model)
        notes += reading.notes
        switches = {
            switch: reading.settings[switch]
            for switch in reading.switches
            if switch not in given and reading.settings[switch] != model.config[switch]
        }
        if switches:
            why = "as the source computes; the name says"
            notes += [
                Note(action="set", what=f"{switch}={value!r}", why=f"{why} {model.config[switch]!r}")
                for switch, value in switches.items()
            ]
            options = {**options, **switches}
            model = build(options)
    state = dict(reading.state)
    if "head" in reset:
        notes += _new_head(state, model)
    if hasattr(model, "adapt_weights"):
        state, adapted = model.adapt_weights(state, reading.settings)
        notes += adapted
    prepared = Prepared(
        state=state,
        config=None,
        options=options,
        preprocess=reading.preprocess,
        format=format,
        labels=() if reset else reading.labels,
        notes=tuple(notes),
    )
    return prepared, model


def _read(source: Source, format: str, model: Any) -> Reading:
    if format != NATIVE:
        return get_format(format).read(source, model.config)
    reading = read_native(source)
    known = reading.settings.keys() & dict(model.config).keys()
    return replace(reading, switches=tuple(name for name in getattr(model, "switches", ()) if name in known))


def _new_head(state: dict[str, Tensor], model: Any) -> list[Note]:
    """Draw the classifier anew, in place: of the model's own form, from normal(0.02)."""
    classifier: Any = model.get_classifier() if hasattr(model, "get_classifier") else None
    name = next((name for name, part in model.named_modules() if part is classifier), "")
    if not name:
        raise CheckpointError(
            f"reset='head' needs a model whose get_classifier() returns one of its modules; {type(model).__name__} has "
            "none such"
        )
    for key in [key for key in state if key.startswith(f"{name}.")]:
        del state[key]
    if not list(classifier.parameters()):
        return [Note(action="dropped", what=name, why="the caller asked for it, and the model has num_classes=0")]
    like = next(iter(state.values()))
    fresh = nn.Sequential(deepcopy(classifier).to_empty(device="cpu")).to(like.dtype)
    init_vit(fresh, needs_reset=True)
    state |= {f"{name}.{key}": tensor.detach() for key, tensor in fresh[0].state_dict().items()}
    return [Note(action="reset", what=name, why="the caller asked for it; drawn anew")]
