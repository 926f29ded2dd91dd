"""Checks of weights formats: what is written is recognised and read back as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch

import vitzoo
from vitzoo.errors import CheckpointError
from vitzoo.plugin import get_registry
from vitzoo.registry import Entry
from vitzoo.testing.check import Check, Unavailable
from vitzoo.testing.modules import is_close
from vitzoo.testing.tiny import randomise
from vitzoo.testing.zoo import Model
from vitzoo.weights.formats.base import Format
from vitzoo.weights.formats.choose import detect, get_format
from vitzoo.weights.source import Source, open_source

METHODS = ("reasons_against", "read", "write")
PLAIN: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 5,
}
# No other library's ViT has all of these.
ODD: dict[str, Any] = {"rope": "mixed", "pool": "gem", "norm": "rmsnorm", "block": "res_post_norm", "mlp": "swiglu"}
STRANGER = "stranger.weight"


@dataclass(frozen=True)
class WeightsFormat:
    """A registered format, as the checks see it.

    Args:
        entry: its entry in the registry; `test_model`, `models` and `test_config` say which it has a place for.
    """

    entry: Entry

    @property
    def format(self) -> Format:
        """The format itself."""
        return get_format(self.entry.name)

    @property
    def model_name(self) -> str:
        """The model whose weights are written."""
        if "test_model" in self.entry.meta or "models" not in self.entry.meta:
            return str(self.entry.meta.get("test_model", "vit_tiny"))
        pattern = self.entry.meta["models"]
        found = [name for name in get_registry().names("model") if fnmatchcase(name, pattern)]
        assert found, f"the format says that it is for models={pattern!r}, and no registered model has such a name"
        return found[0]

    @property
    def plain(self) -> bool:
        """Whether it is a format of plain ViTs, not of a plugin's own models."""
        return not {"test_model", "models"} & set(self.entry.meta)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of that model."""
        own = self.entry.meta.get("test_config", {})
        if self.plain:
            return {**PLAIN, **own}
        found = get_registry().find("model", self.model_name)
        return {**(Model(found).settings if found is not None else {}), **own}

    def model(self) -> Any:
        """Return the model with random weights."""
        torch.manual_seed(0)
        return randomise(vitzoo.create(self.model_name, **self.settings)).eval()

    @contextmanager
    def written(self, model: Any) -> Iterator[Path]:
        """Write the model's weights in the format, and give the path inside the block."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            try:
                vitzoo.save(model, path, format=self.entry.name)
            except CheckpointError:
                # A format of one file, or no format for this model: then this raises too.
                path = path.with_suffix(".safetensors")
                vitzoo.save(model, path, format=self.entry.name)
            yield path


def checks(entry: Entry) -> list[Check]:
    """Return the checks of a format."""
    functions: dict[str, Callable[[WeightsFormat], None]] = {
        "protocol": check_protocol,
        "round_trip": check_round_trip,
        "detected": check_detected,
        "not_detected": check_not_detected,
        "strangers": check_strangers,
        "refuses_model": check_refuses_model,
    }
    bare = entry.name.partition("/")[2] or entry.name
    subject = WeightsFormat(entry)
    return [Check(f"weights/{bare}:{name}", partial(function, subject)) for name, function in functions.items()]


def check_protocol(subject: WeightsFormat) -> None:
    """It is an object with three methods, or a class of such that takes no arguments."""
    missing = [name for name in METHODS if not callable(getattr(subject.format, name, None))]
    assert not missing, f"the format lacks {', '.join(f'{name}()' for name in missing)}"


def check_round_trip(subject: WeightsFormat) -> None:
    """What it writes it reads back: the same tensors, and a model that computes the same."""
    model = subject.model()
    with subject.written(model) as path:
        again = vitzoo.create(subject.model_name, weights=path, format=subject.entry.name, **subject.settings).eval()
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys(), (
        f"written and read back, other tensors: {sorted(before.keys() ^ after.keys())}"
    )
    wrong = [name for name in before if not torch.equal(before[name], after[name])]
    assert not wrong, f"written and read back, other values stand in {', '.join(wrong)}"
    size = subject.settings.get("img_size", 224)
    image = torch.randn(2, subject.settings.get("in_chans", 3), *((size, size) if isinstance(size, int) else size))
    with torch.no_grad():
        assert is_close(again(image), model(image)), (
            "written and read back, the tensors are equal and the model computes something else: a switch (eps, "
            "activation, resizing, pooling) is read as another one"
        )


def check_detected(subject: WeightsFormat) -> None:
    """What it writes is recognised as its own, and as nobody else's."""
    with subject.written(subject.model()) as path:
        source = open_source(path)
        against = subject.format.reasons_against(source)
        assert against == [], f"it finds reasons against what it wrote itself: {against}"
        found = detect(source)
    assert found == subject.entry.name, f"what it wrote is taken for the format {found!r}"


def check_not_detected(subject: WeightsFormat) -> None:
    """Weights of something else are refused with reasons."""
    source = Source(name="something else", state={"encoder.weight": torch.zeros(3, 3)})
    against = subject.format.reasons_against(source)
    assert isinstance(against, list), f"reasons_against gives a list of a few words each; got {against!r}"
    assert against, (
        "it finds no reason against a source of one tensor named encoder.weight: every file would be its own"
    )
    assert all(isinstance(reason, str) and reason for reason in against), f"a reason is a few words; got {against!r}"


def check_strangers(subject: WeightsFormat) -> None:
    """A tensor that it does not know is left under its name, to be refused, or noted; never dropped in silence."""
    model = subject.model()
    with subject.written(model) as path:
        source = open_source(path)
        state = {**source.state, STRANGER: torch.zeros(3)}
        reading = subject.format.read(replace(source, state=state), {**subject.settings})
    noted = any(STRANGER.partition(".")[0] in note.what for note in reading.notes)
    assert STRANGER in reading.state or noted, (
        f"a tensor {STRANGER!r} in the file is neither in what is read nor in its notes: it is dropped in silence"
    )


def check_refuses_model(subject: WeightsFormat) -> None:
    """A model that it has no place for is refused; what is written can be read back."""
    if not subject.plain:
        raise Unavailable("it is a format of a plugin's own model: there is no odd one to write")
    settings = {**PLAIN, **ODD}
    odd = randomise(vitzoo.create("vit_tiny", **settings))
    shown = ", ".join(f"{name}={value}" for name, value in ODD.items())
    with ExitStack() as written:
        try:
            path = written.enter_context(subject.written(odd))
        except CheckpointError:
            return
        again = vitzoo.create("vit_tiny", weights=path, format=subject.entry.name, **settings)
    before, after = odd.state_dict(), again.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert same, (
        f"it writes a ViT with {shown}, and reads back something else: what it has no place for must be refused"
    )
