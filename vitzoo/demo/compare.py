"""The attention backends on the trained model: each must give the same answers.

Triton decides between its interpreter and its compiler when it is imported, so its turn comes in a child process:

    python -m vitzoo.demo.compare CHECKPOINT IMAGES BACKEND OUT
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitzoo.attention.select import caps_of
from vitzoo.weights.disk import load

BACKENDS = ("reference", "sdpa", "triton")
# Far above what float32 makes of four blocks, far below what would change an answer.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one backend compares with the reference.

    Args:
        backend: its name.
        available: whether it can run on this machine.
        detail: why not, or where it ran.
        max_difference: largest difference of a logit; None when it did not run.
        same_predictions: whether every image gets the same class; None when it did not run.
    """

    backend: str
    available: bool
    detail: str
    max_difference: float | None = None
    same_predictions: bool | None = None

    @property
    def agrees(self) -> bool:
        """Whether it ran and gave the reference's answers."""
        return bool(self.same_predictions) and self.max_difference is not None and self.max_difference < TOLERANCE


def compare(checkpoint: Path, images: Tensor) -> list[Agreement]:
    """Run every backend on the saved model and images (N, C, H, W), and hold it against the reference."""
    expected = logits_of(checkpoint, images, "reference")
    results = []
    for name in BACKENDS:
        never = caps_of(name).never_runs()
        if never:
            reasons = "; ".join(map(str, never))
            results.append(Agreement(backend=name, available=False, detail=f"not available: {reasons}"))
            continue
        if name != "triton":
            where, logits = "CPU", logits_of(checkpoint, images, name)
        elif torch.cuda.is_available():
            where, logits = "GPU", logits_of(checkpoint, images, name)
        else:
            where, logits = "CPU, Triton's interpreter in a child process", in_child(checkpoint, images, name)
        results.append(
            Agreement(
                backend=name,
                available=True,
                detail=where,
                max_difference=(logits - expected).abs().max().item(),
                same_predictions=torch.equal(logits.argmax(1), expected.argmax(1)),
            )
        )
    return results


def logits_of(checkpoint: Path, images: Tensor, backend: str) -> Tensor:
    """Return the saved model's logits (N, classes) with a backend, on the GPU where only that can run it."""
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    model = load(checkpoint, attn=backend, device=device).eval()
    with torch.inference_mode():
        logits: Tensor = model(images.to(device)).cpu()
    return logits


def in_child(checkpoint: Path, images: Tensor, backend: str) -> Tensor:
    """Return what `logits_of` gives in a process in which Triton interprets its kernels.

    Raises:
        RuntimeError: the child failed; the message holds what it printed.
    """
    exchange, answer = checkpoint / "exchange.safetensors", checkpoint / "answer.safetensors"
    try:
        save_file({"images": images.contiguous()}, exchange)
        done = subprocess.run(
            [sys.executable, "-m", "vitzoo.demo.compare", str(checkpoint), str(exchange), backend, str(answer)],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the {backend} backend failed in its child process:\n{done.stderr}")
        return load_file(answer)["logits"]
    finally:
        exchange.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def main() -> None:
    """Be the child: read images, write logits."""
    checkpoint, exchange, backend, answer = sys.argv[1:]
    images = load_file(exchange)["images"]
    save_file({"logits": logits_of(Path(checkpoint), images, backend)}, answer)


if __name__ == "__main__":
    main()
