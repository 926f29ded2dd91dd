"""The demo from beginning to end; it tells what it does through a callback and returns what came out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitzoo.attention.caps import installed_version
from vitzoo.attention.maps import attention_maps, explain_attention
from vitzoo.demo.compare import Agreement, compare
from vitzoo.demo.digits import load_digits, require_extras
from vitzoo.demo.pictures import draw_curves, draw_digits
from vitzoo.demo.train import Epoch, train
from vitzoo.errors import WriteError
from vitzoo.factory import create
from vitzoo.files import require_writable, write_json
from vitzoo.preprocess import transforms
from vitzoo.weights.disk import load, save

WANTED_ACCURACY = 0.97
DRAWN = 40
# The interpreter takes its time.
COMPARED = 64


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the demo came to.

    Args:
        accuracy: on the held-out digits, 0 to 1.
        seconds: of training.
        agreements: how the attention backends compare.
        same_after_loading: whether the saved and loaded model gives the same logits bit for bit.
        photo: what the model made of a photograph, in words.
        files: what was written.
    """

    accuracy: float
    seconds: float
    agreements: list[Agreement]
    same_after_loading: bool
    photo: dict[str, str]
    files: list[Path] = field(default_factory=list)

    def failures(self) -> list[str]:
        """Return in words what did not turn out as it should."""
        failed = []
        if self.accuracy < WANTED_ACCURACY:
            failed.append(f"held-out accuracy is {self.accuracy:.1%}; {WANTED_ACCURACY:.0%} was wanted")
        failed += [
            f"backend {agreement.backend} does not agree with the reference: logits differ by up to "
            f"{agreement.max_difference:.1e}"
            for agreement in self.agreements
            if agreement.available and not agreement.agrees
        ]
        if not self.same_after_loading:
            failed.append("the loaded model does not give the saved model's logits")
        return failed


def run(out: Path, *, epochs: int, seed: int, tell: Callable[[Epoch], None], say: Callable[[str], None]) -> Outcome:
    """Train, draw, compare, save, load again, and look at a photograph.

    Args:
        out: the folder for what is written; made if missing.
        epochs: passes over the training images.
        seed: of the weights and the order.
        tell: called after every epoch.
        say: called with a line on each further step.

    Raises:
        MissingPackageError: scikit-learn or matplotlib is not installed.
        WriteError: nothing can be written there.
    """
    require_extras()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the folder {str(out)!r} cannot be made: {error.strerror}; name another") from error
    require_writable(out / "curves.png")
    digits = load_digits()
    start = time.perf_counter()
    model, history = train(digits, epochs=epochs, seed=seed, tell=tell)
    seconds = time.perf_counter() - start

    say("Drawing")
    draw_curves(history, out / "curves.png")
    _draw_digits(model, out / "digits.png")

    say("Saving and loading again")
    save(model, out / "model")
    again = load(out / "model").eval()
    with torch.inference_mode():
        same = torch.equal(model(digits.held_out_images), again(digits.held_out_images))

    say("Comparing the attention backends")
    agreements = compare(out / "model", digits.held_out_images[:COMPARED])
    write_json(out / "backends.json", [asdict(agreement) for agreement in agreements])

    say("Looking at a photograph")
    photo = _look_at_photo()
    outcome = Outcome(
        accuracy=history[-1].held_out_accuracy,
        seconds=seconds,
        agreements=agreements,
        same_after_loading=same,
        photo=photo,
        files=[out / name for name in ("curves.png", "digits.png", "backends.json", "summary.json", "model")],
    )
    write_json(out / "summary.json", _summary(outcome, history, seed))
    return outcome


def _draw_digits(model: nn.Module, path: Path) -> None:
    """Draw held-out digits, the wrong ones first, so that none is hidden."""
    digits = load_digits()
    images, labels = digits.held_out_images, digits.held_out_labels
    with torch.inference_mode():
        predictions = model(images).argmax(dim=1)
    wrong = (predictions != labels).nonzero().flatten()[: DRAWN // 2]
    right = (predictions == labels).nonzero().flatten()[: DRAWN - len(wrong)]
    chosen = torch.cat([wrong, right])
    (weights,) = attention_maps(model, images[chosen], layers=[-1]).values()  # (N, heads, 1, 1 + patches)
    patches = weights.mean(dim=1)[:, 0, model.num_prefix_tokens :]
    rows, columns = model.patch_embed.grid_size  # type: ignore[union-attr, misc]
    draw_digits(images[chosen], patches.reshape(-1, rows, columns), predictions[chosen], labels[chosen], path)


def _look_at_photo() -> dict[str, str]:
    """Run vit_small, its weights fresh, on a photograph; return what can be said of it."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photo = Image.fromarray(load_sample_image("china.jpg"))
    torch.manual_seed(0)
    model = create("vit_small").eval()
    image = transforms(model)(photo)[None]
    with torch.inference_mode():
        features = model.forward_features(image)  # type: ignore[operator]
        logits = model.forward_head(features)  # type: ignore[operator]
    return {
        "model": f"vit_small, fresh weights, {sum(parameter.numel() for parameter in model.parameters()):,} parameters",
        "photograph": f"china.jpg, {photo.width}x{photo.height}, to the model {tuple(image.shape)}",
        "tokens": str(tuple(features.shape)),
        "logits": str(tuple(logits.shape)),
        "attention": str(explain_attention(model, image)),
    }


def _summary(outcome: Outcome, history: list[Epoch], seed: int) -> dict[str, Any]:
    return {
        "accuracy": outcome.accuracy,
        "seconds": round(outcome.seconds, 1),
        "epochs": len(history),
        "seed": seed,
        "same_after_loading": outcome.same_after_loading,
        "failures": outcome.failures(),
        "photo": outcome.photo,
        "versions": {
            "python": platform.python_version(),
            **{package: installed_version(package) for package in ("torch", "triton", "scikit-learn")},
        },
        "history": [asdict(epoch) for epoch in history],
    }
