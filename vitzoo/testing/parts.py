"""What every part of a ViT is checked for, alone and in a ViT with it in its slot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vitzoo
from vitzoo.registry import Entry
from vitzoo.testing.check import Check, Unavailable
from vitzoo.testing.modules import Subject, is_close, module_checks
from vitzoo.testing.tiny import BATCH, NUM_PATCHES, TINY, images, tiny


@dataclass(frozen=True)
class Kind:
    """How a kind of part is found in a ViT and called.

    Args:
        find: the part in a model; None when the model needs none.
        call: the part's result (B, ...) for an input.
        inputs: a random input.
        out_dtype: the result's dtype for an input's.
        per_image: whether the result has a row for each image.
    """

    find: Callable[[Any], nn.Module | None]
    call: Callable[[Any, Tensor], Tensor]
    inputs: Callable[[], Tensor]
    out_dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype
    per_image: bool = True


@dataclass(frozen=True)
class Part(Subject):
    """A registered part, as the checks see it.

    Args:
        entry: its entry in the registry.
        kind: how it is found and called.
    """

    entry: Entry
    kind: Kind
    dropping = {"proj_drop_rate": 0.2, "drop_path_rate": 0.2, "attn_drop_rate": 0.2}  # noqa: RUF012 - read only

    def module(self, *, seed: int = 0, **changes: Any) -> Any:
        """Return the part from a tiny ViT, in eval mode, every parameter random.

        Raises:
            Unavailable: the component makes no module, as rope 'none'.
        """
        module = self.kind.find(tiny(self.entry, seed=seed, **changes))
        if module is None:
            raise Unavailable("it makes no module: there is nothing to check")
        return module

    def inputs(self) -> Tensor:
        """Return a random input."""
        return self.kind.inputs()

    def call(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return its result for an input."""
        return self.kind.call(module, x)

    def out_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of the result for an input's."""
        return self.kind.out_dtype(dtype)


def tokens() -> Tensor:
    """Return random tokens (B, P + N, C): a class token, two registers, the patches."""
    return torch.randn(BATCH, 3 + NUM_PATCHES, TINY["embed_dim"])


def part_checks(entry: Entry, kind: Kind, own: Mapping[str, Callable[[Part], None]]) -> list[Check]:
    """Return the checks of a kind, its own first, and then those of every part."""
    part = Part(entry, kind)
    functions: dict[str, Callable[[Part], None]] = {"builds": check_builds, **own}
    functions |= module_checks(per_image=kind.per_image)
    functions |= {"in_a_model": check_in_a_model, "checkpoint": check_checkpoint, "exports": check_exports}
    bare = entry.name.partition("/")[2] or entry.name
    return [Check(f"{entry.kind}/{bare}:{name}", partial(function, part)) for name, function in functions.items()]


def check_builds(part: Part) -> None:
    """It is built as its protocol says, and is a module."""
    module = part.module()
    assert isinstance(module, nn.Module), f"it builds a {type(module).__name__}, not a torch.nn.Module"


def check_in_a_model(part: Part) -> None:
    """A ViT with it classifies images of several sizes, and trains."""
    model = tiny(part.entry)
    for size in ((32, 48), (48, 32), (40, 40)):
        logits = model(images(BATCH, 3, *size))
        _check_logits(logits, f"images of {size[0]}x{size[1]}")
    model.set_input_size((48, 64))  # type: ignore[operator]
    _check_logits(model(images(BATCH, 3, 48, 64)), "images of 48x64, after set_input_size")
    model = tiny(part.entry).train()
    logits = model(images())
    (logits * torch.randn_like(logits)).sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f"in a ViT with it no gradient reaches {', '.join(missing)}"


def check_checkpoint(part: Part) -> None:
    """A ViT with it is saved and loaded, with the same settings, weights and logits."""
    model, x = tiny(part.entry), images()
    with tempfile.TemporaryDirectory() as folder:
        vitzoo.save(model, Path(folder) / "model")
        loaded = vitzoo.load(Path(folder) / "model").eval()
    assert loaded.config == model.config, f"saved and loaded, the settings are {loaded.config}, not {model.config}"
    before, after = model.state_dict(), loaded.state_dict()
    differing = [name for name in before if not torch.equal(before[name], after[name])]
    assert not differing, f"saved and loaded, other values stand in {', '.join(differing)}"
    with torch.no_grad():
        assert is_close(loaded(x), model(x)), "saved and loaded, a ViT with it computes something else"


def check_exports(part: Part) -> None:
    """A ViT with it exports with torch.export."""
    model, x = tiny(part.entry), images()
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert is_close(program.module()(x), model(x)), "exported, a ViT with it computes something else"


def _check_logits(logits: Tensor, what: str) -> None:
    good = logits.shape[0] == BATCH and logits.shape[-1] == TINY["num_classes"]
    assert good, f"for {what} a ViT with it returns {tuple(logits.shape)}, expected {BATCH} images and 5 classes"
    assert logits.isfinite().all(), f"for {what} the logits of a ViT with it are not finite"
