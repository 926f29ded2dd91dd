"""What every part of a ViT is checked for, whatever its kind: gradients, dtypes, devices, state, copies, compiling."""

from __future__ import annotations

import copy
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
class Part:
    """A registered part, as the checks see it.

    Args:
        entry: its entry in the registry.
        kind: how it is found and called.
    """

    entry: Entry
    kind: Kind

    def module(self, *, seed: int = 0, **changes: Any) -> nn.Module:
        """Return the part from a tiny ViT, in eval mode, every parameter random.

        Raises:
            Unavailable: the component makes no module, as rope 'none'.
        """
        module = self.kind.find(tiny(self.entry, seed=seed, **changes))
        if module is None:
            raise Unavailable("it makes no module: there is nothing to check")
        return module

    def call(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return its result for an input."""
        return self.kind.call(module, x)


def tokens() -> Tensor:
    """Return random tokens (B, P + N, C): a class token, two registers, the patches."""
    return torch.randn(BATCH, 3 + NUM_PATCHES, TINY["embed_dim"])


def part_checks(entry: Entry, kind: Kind, own: Mapping[str, Callable[[Part], None]]) -> list[Check]:
    """Return the checks of a kind, its own first, and then those of every part."""
    part = Part(entry, kind)
    functions: dict[str, Callable[[Part], None]] = {"builds": check_builds, **own}
    functions |= {
        "gradients": check_gradients,
        "dtypes": check_dtypes,
        "meta": check_meta,
        "cuda": check_cuda,
        "state_dict": check_state_dict,
        "deepcopy": check_deepcopy,
        "repeatable": check_repeatable,
    }
    if kind.per_image:
        functions["one_by_one"] = check_one_by_one
    functions |= {
        "compiles": check_compiles,
        "in_a_model": check_in_a_model,
        "checkpoint": check_checkpoint,
        "exports": check_exports,
    }
    bare = entry.name.partition("/")[2] or entry.name
    return [Check(f"{entry.kind}/{bare}:{name}", partial(function, part)) for name, function in functions.items()]


def check_builds(part: Part) -> None:
    """It is built as its protocol says, and is a module."""
    module = part.module()
    assert isinstance(module, nn.Module), f"it builds a {type(module).__name__}, not a torch.nn.Module"


def check_gradients(part: Part) -> None:
    """A gradient reaches every parameter."""
    module = part.module().train()
    out = part.call(module, part.kind.inputs().requires_grad_())
    if not any(True for _ in module.parameters()):
        return
    torch.autograd.backward((out * torch.randn_like(out)).sum())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, (
            f"no gradient reaches the parameter {name}: it does not take part in the result"
        )
        assert parameter.grad.isfinite().all(), f"the gradient of the parameter {name} is not finite"
        assert parameter.grad.any(), f"the gradient of the parameter {name} is zero everywhere"


def check_dtypes(part: Part) -> None:
    """`module.to(dtype)` makes it compute in that dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        out = part.call(part.module().to(dtype), part.kind.inputs().to(dtype))
        expected = part.kind.out_dtype(dtype)
        assert out.dtype == expected, f"moved to {dtype}, it returns {out.dtype} for {dtype}, expected {expected}"
        assert out.isfinite().all(), f"in {dtype} the result is not finite"


def check_meta(part: Part) -> None:
    """It can be built and run without memory, which shows a tensor that does not move with the module."""
    real = part.module()
    empty = part.kind.find(tiny(part.entry, device="meta"))
    assert empty is not None
    kept = {name: tuple(tensor.shape) for name, tensor in real.state_dict().items()}
    on_meta = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    assert kept == on_meta, (
        f"built on the meta device, as when weights are loaded, its state dict is another: {_difference(kept, on_meta)}"
    )
    _runs_on(part, real, "meta")


def check_cuda(part: Part) -> None:
    """It moves to a GPU."""
    if not torch.cuda.is_available():
        raise Unavailable("needs a CUDA GPU")
    _runs_on(part, part.module(), "cuda")


def check_state_dict(part: Part) -> None:
    """The state dict has the same keys before and after use, and holds all that decides the result."""
    first, second = part.module(seed=0), part.module(seed=1)
    x = part.kind.inputs()
    built = set(first.state_dict())
    part.call(first.train(), x)
    part.call(first.eval(), x)
    used = set(first.state_dict())
    assert built == used, f"its state dict has other keys after use: {_difference(built, used)}"
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(part.call(first, x), part.call(second, x)), (
        "with the same state dict, another instance computes something else: a value that decides the result is not "
        "in it"
    )


def check_deepcopy(part: Part) -> None:
    """A deep copy computes the same and shares nothing."""
    module, x = part.module(), part.kind.inputs()
    before = part.call(module, x)
    clone = copy.deepcopy(module)
    assert torch.equal(part.call(clone, x), before), "a deep copy computes something else"
    with torch.no_grad():
        for tensor in [*clone.parameters(), *clone.buffers()]:
            tensor.add_(1)
    assert torch.equal(part.call(module, x), before), "a deep copy shares tensors with the original"


def check_repeatable(part: Part) -> None:
    """In eval mode two calls give the same, and the input stays as it was."""
    module, x = part.module(proj_drop_rate=0.2, drop_path_rate=0.2, attn_drop_rate=0.2), part.kind.inputs()
    given = x.clone()
    with torch.no_grad():
        first, second = part.call(module, x), part.call(module, x)
    assert torch.equal(x, given), "it writes into its input"
    assert torch.equal(first, second), "in eval mode two calls give different results"


def check_one_by_one(part: Part) -> None:
    """In eval mode the result for an image does not depend on the images beside it."""
    module, x = part.module().double(), part.kind.inputs().double()
    with torch.no_grad():
        together, alone = part.call(module, x)[:1], part.call(module, x[:1])
    assert _close(together, alone), "in eval mode the result for an image depends on the other images of the batch"


def check_compiles(part: Part) -> None:
    """torch.compile(fullgraph=True) traces it without a break, and computes the same."""
    module, x = part.module().double(), part.kind.inputs().double()
    torch._dynamo.reset()
    compiled = torch.compile(partial(part.call, module), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert _close(compiled(x), part.call(module, x)), "compiled, it computes something else"
    torch._dynamo.reset()


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
        assert _close(loaded(x), model(x)), "saved and loaded, a ViT with it computes something else"


def check_exports(part: Part) -> None:
    """A ViT with it exports with torch.export."""
    model, x = tiny(part.entry), images()
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert _close(program.module()(x), model(x)), "exported, a ViT with it computes something else"


def _runs_on(part: Part, module: nn.Module, device: str) -> None:
    expected = part.call(module, part.kind.inputs()).shape
    try:
        out = part.call(module.to(device), part.kind.inputs().to(device))
    except RuntimeError as error:
        raise AssertionError(f"moved to {device}, it mixes devices: a tensor does not move with it: {error}") from error
    assert out.device.type == device, f"moved to {device}, it returns a tensor on {out.device}"
    assert out.shape == expected, f"on {device} the result has shape {tuple(out.shape)}, elsewhere {tuple(expected)}"


def _check_logits(logits: Tensor, what: str) -> None:
    good = logits.shape[0] == BATCH and logits.shape[-1] == TINY["num_classes"]
    assert good, f"for {what} a ViT with it returns {tuple(logits.shape)}, expected {BATCH} images and 5 classes"
    assert logits.isfinite().all(), f"for {what} the logits of a ViT with it are not finite"


def _close(left: Tensor, right: Tensor) -> bool:
    # The same sums in another order: torch's own measure of equality, in the dtype at hand.
    try:
        torch.testing.assert_close(left, right)
    except AssertionError:
        return False
    return True


def _difference(before: Any, after: Any) -> str:
    changed = [name for name in before if name in after and isinstance(before, dict) and before[name] != after[name]]
    return f"gone {sorted(set(before) - set(after))}, new {sorted(set(after) - set(before))}, other shape {changed}"
