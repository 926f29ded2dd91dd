"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from vitzoo.errors import MissingPackageError
from vitzoo.preprocess import Preprocess

HELD_OUT_SHARE = 0.2
SPLIT_SEED = 0
BRIGHTEST = 16.0


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The scans, split once and for all.

    Args:
        train_images: (N, 1, 8, 8), normalised.
        train_labels: (N,).
        held_out_images: (M, 1, 8, 8), normalised.
        held_out_labels: (M,).
        preprocess: the mean and standard deviation of the training pixels.
    """

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    preprocess: Preprocess


def require_extras() -> None:
    """Raise MissingPackageError unless the demo's optional packages are installed."""
    missing = [
        package
        for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib"))
        if not find_spec(module)
    ]
    if missing:
        raise MissingPackageError(f'the demo needs {" and ".join(missing)}: pip install "vitzoo[demo]"')


def load_digits() -> Digits:
    """Return the digits with a held-out fifth, the same share of every class."""
    from sklearn import datasets, model_selection

    images, labels = datasets.load_digits(return_X_y=True)
    train_images, held_out_images, train_labels, held_out_labels = model_selection.train_test_split(
        images, labels, test_size=HELD_OUT_SHARE, random_state=SPLIT_SEED, stratify=labels
    )
    pixels = [
        torch.from_numpy(part / BRIGHTEST).float().reshape(-1, 1, 8, 8) for part in (train_images, held_out_images)
    ]
    mean, std = pixels[0].mean().item(), pixels[0].std().item()
    return Digits(
        train_images=(pixels[0] - mean) / std,
        train_labels=torch.from_numpy(train_labels),
        held_out_images=(pixels[1] - mean) / std,
        held_out_labels=torch.from_numpy(held_out_labels),
        preprocess=Preprocess(mean=(mean,), std=(std,), crop_pct=1.0, interpolation="bilinear"),
    )


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move, turn and scale four in five of the images (N, 1, 8, 8): up to half a pixel, 10 degrees and a tenth.

    The others stay sharp, as the held-out images are: an interpolated scan of 8x8 pixels is a blurred one.
    """
    count = images.shape[0]
    angle, scale = (torch.empty(count).uniform_(-1, 1, generator=generator) for _ in range(2))
    angle, scale = angle * math.radians(10), 1 + 0.1 * scale
    # The grid is 2 wide for 8 pixels: an eighth is half a pixel.
    shift = torch.empty(count, 2, 1).uniform_(-0.125, 0.125, generator=generator)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(count, 2, 2)
    grid = F.affine_grid(
        torch.cat([turn * scale[:, None, None], shift], dim=2), list(images.shape), align_corners=False
    )
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < 0.8
    return torch.where(chosen, moved, images)
