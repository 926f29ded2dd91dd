"""vitzoo's models against timm's on a GPU: images a second of inference and of training, and peak memory.

    python -m benchmarks.model --gpu [--budget-s 540] [--out FILE]

Weights and activations are bfloat16. vitzoo runs its kernel and, beside it, torch's SDPA; timm its fused attention; all
in turns in one process, eager first and then under torch.compile, what matters most first, until the budget is spent.
A call ends when the GPU is done, so that the host's time counts where it is what one waits for.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import vitzoo
from benchmarks import machine, records
from benchmarks.timing import interleave, ratio, spread, within_budget

# Models by timm's name, which is vitzoo's, with the side of an image; the first are what matters most.
MODELS = (
    ("vit_base_patch16_224", 224),
    ("vit_small_patch14_dinov2", 518),
    ("vit_so400m_patch14_siglip_384", 384),
    ("vit_large_patch16_224", 224),
    ("vit_small_patch16_224", 224),
    ("vit_base_patch14_dinov2", 518),
    ("vit_base_patch16_384", 384),
    ("vit_large_patch16_384", 384),
)
BATCHES = (256, 1, 32)
MODES = ("eager", "compiled")
CANDIDATES = {"vitzoo": "triton", "vitzoo sdpa": "sdpa", "timm": None}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    size: int
    batch: int
    compiled: bool
    training: bool

    @property
    def mode(self) -> str:
        """One of `MODES`."""
        return MODES[self.compiled]


def cases(*, models: Sequence[tuple[str, int]] = MODELS, batches: Sequence[int] = BATCHES) -> list[Case]:
    """Return every case, what matters most first; compiled ones last, as compiling takes most of the time."""
    order = [
        (batches.index(batch) + models.index(model), Case(*model, batch, compiled, training))
        for compiled in (False, True)
        for model in models
        for batch in batches
        for training in (False, True)
    ]
    return [case for _, case in sorted(order, key=lambda pair: (pair[1].compiled, pair[0]))]


def run(
    device: torch.device,
    *,
    quick: bool,
    budget_s: float,
    commit: str | None,
    out: Path | None,
    modes: Sequence[str] = MODES,
) -> int:
    """Measure what the budget allows, write JSON after every case, print the table, and return the exit status."""
    todo = cases(models=(("vit_tiny_patch16_224", 32),), batches=(2,)) if quick else cases()
    todo = [case for case in todo if case.mode in modes]
    candidates = dict(CANDIDATES)
    if device.type == "cpu":
        # The kernel needs a GPU.
        del candidates["vitzoo"]
    record: dict[str, Any] = {"machine": machine.describe(device, commit=commit), "dtype": "bf16", "rows": []}
    record |= {"not_run": [asdict(case) for case in todo], "failed": []}
    with machine.ClockLog(device) as clocks:
        for case, left in within_budget(todo, budget_s):
            try:
                row = measure(case, candidates, device, quick=quick)
            except (
                Exception
            ) as error:  # one that is wrong, or that a compiler cannot make, is no reason to end the rest
                said = f"{type(error).__name__}: {error}".splitlines()[0]
                record["failed"].append({**asdict(case), "reason": said})
                print(f"{case}: {said}", file=sys.stderr, flush=True)
            else:
                record["rows"].append(row)
                print(line(row), flush=True)
            record["not_run"] = [asdict(other) for other in left]
            if out:
                records.write_json(out, record)
    record["clocks"] = clocks.summary
    if out:
        records.write_json(out, record)
    if record["not_run"]:
        print(f"{len(record['not_run'])} cases not reached")
    return 1 if record["failed"] else 0


def measure(case: Case, candidates: dict[str, str | None], device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Return one row: each candidate's images a second and peak memory, and the ratio to timm's time."""
    torch.manual_seed(0)
    # Made where they run: drawing the weights of a ViT-B takes a CPU seconds.
    with device:
        plain = timm.create_model(case.model, img_size=case.size, num_classes=1000)
    images = torch.randn(case.batch, 3, case.size, case.size, device=device, dtype=torch.bfloat16)
    found: dict[str, Any] = {name: {} for name in candidates}
    runs: dict[str, Callable[[], None]] = {}
    with torch.no_grad():
        truth = plain.eval()(images[:2].float())
    for name, attn in candidates.items():
        try:
            model = build(case, attn, plain, device)
            with torch.no_grad():
                found[name]["error"] = distance(model.eval()(images[:2]), truth)
            model = compiled(model, case)
            step = partial(train if case.training else infer, model, images)
            found[name]["peak_bytes"] = peak(step, device)
            # And what is timed, which may be another program.
            with torch.set_grad_enabled(case.training):
                found[name]["error"] = max(found[name]["error"], distance(model(images)[:2], truth))
            runs[name] = step
        except torch.OutOfMemoryError as error:
            found[name]["reason"] = str(error).splitlines()[0]
    for name in right(case, found):
        del runs[name]
    times = interleave(runs, 3 if quick else 11) if runs else {}
    for name, seconds in times.items():
        own = spread(seconds)
        found[name] |= {
            "images_per_s": case.batch / own.median,
            "ms": [1e3 * x for x in (own.median, own.low, own.high)],
        }
        if "timm" in times:
            against = ratio(times["timm"], seconds)
            found[name]["ratio"] = [against.median, against.low, against.high]
    del runs, plain
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    torch.compiler.reset()
    return {**asdict(case), "candidates": found}


def build(case: Case, attn: str | None, plain: nn.Module, device: torch.device) -> nn.Module:
    """Return a candidate with timm's weights: vitzoo's model on a backend, or timm's own."""
    with device:
        if attn is None:
            model = timm.create_model(case.model, img_size=case.size, num_classes=1000)
        else:
            model = vitzoo.create(case.model, img_size=case.size, num_classes=1000, attn=attn)
    model.load_state_dict(plain.state_dict())
    return model.to(torch.bfloat16)


def compiled(model: nn.Module, case: Case) -> nn.Module:
    """Return the model in the mode of a case, compiled if it says so."""
    model.train(case.training)
    return torch.compile(model) if case.compiled else model


def distance(out: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the largest difference."""
    return float((out.detach().float() - truth).abs().max())


def right(case: Case, found: dict[str, Any]) -> list[str]:
    """Return who cannot be checked; raise AssertionError unless the others are as near to float32 as twice timm."""
    if "error" not in found["timm"]:
        unchecked = [name for name, candidate in found.items() if "reason" not in candidate]
        for name in unchecked:
            found[name]["reason"] = "not timed: timm's own error is the measure, and timm's model did not fit"
        return unchecked
    allowed = 2 * found["timm"]["error"]
    for name, candidate in found.items():
        if "error" in candidate:
            assert candidate["error"] <= allowed, f"{name} of {case}: wrong by {candidate['error']}, allowed {allowed}"
    return []


def infer(model: nn.Module, images: torch.Tensor) -> None:
    """Run inference once."""
    with torch.no_grad():
        model(images)
    wait(images)


def train(model: nn.Module, images: torch.Tensor) -> None:
    """Run forward and backward once."""
    model(images).float().logsumexp(-1).mean().backward()
    model.zero_grad(set_to_none=True)
    wait(images)


def wait(images: torch.Tensor) -> None:
    """Wait for the GPU, when there is one."""
    if images.is_cuda:
        torch.cuda.synchronize()


def peak(step: Callable[[], None], device: torch.device) -> int | None:
    """Return the bytes that a step needs beyond what is there before it; None on a CPU. Compiles and warms up too."""
    step()
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def line(row: dict[str, Any]) -> str:
    """Return a row as it is printed: each candidate's images a second, peak memory, and speed over timm's."""
    return " ".join(
        [
            f"{row['model']:30} {row['size']:3} B{row['batch']:<3}",
            f"{MODES[row['compiled']]:8} {'training' if row['training'] else 'inference':9}",
            *cells(row["candidates"]),
        ]
    )


def cells(candidates: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed of each candidate."""
    for name, found in candidates.items():
        if "images_per_s" not in found:
            yield f"| {name}: {found['reason']}"
            continue
        memory = "" if found["peak_bytes"] is None else f" {found['peak_bytes'] / 2**20:.0f} MiB"
        speed = f" {found['ratio'][0]:.3f}x" if "ratio" in found else ""
        yield f"| {name} {found['images_per_s']:.1f}/s{memory}{speed}"
