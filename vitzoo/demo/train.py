"""Training the demo's model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.demo.digits import Digits, jitter
from vitzoo.factory import create

# 16 patches and a class token; a head dim of 16 is the smallest the Triton kernel takes.
MODEL: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 2.0,
}
EPOCHS = 80
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARM_UP_SHARE = 0.1
LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to.

    Args:
        number: from 1.
        train_loss: mean over the epoch, on moved and turned images, with smoothed labels.
        held_out_loss: after the epoch.
        held_out_accuracy: after the epoch, 0 to 1.
    """

    number: int
    train_loss: float
    held_out_loss: float
    held_out_accuracy: float


def train(
    digits: Digits,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    attn: str = "auto",
    tell: Callable[[Epoch], None] = lambda _: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train a small ViT from fresh weights.

    Args:
        digits: the data.
        epochs: passes over the training images.
        seed: of the weights, the order and the jitter.
        attn: the attention backend.
        tell: called after every epoch.

    Returns:
        The model in eval mode, and the history.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = create("vit_tiny", attn=attn, **MODEL).train()
    model.preprocess = digits.preprocess  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps_per_epoch = len(digits.train_images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_cosine(epochs * steps_per_epoch))
    history = []
    for number in range(1, epochs + 1):
        model.train()
        order = torch.randperm(len(digits.train_images), generator=generator)
        total = 0.0
        for step in range(steps_per_epoch):
            batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            images = jitter(digits.train_images[batch], generator)
            loss = F.cross_entropy(model(images), digits.train_labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        held_out_loss, accuracy = evaluate(model, digits.held_out_images, digits.held_out_labels)
        history.append(
            Epoch(
                number=number,
                train_loss=total / steps_per_epoch,
                held_out_loss=held_out_loss,
                held_out_accuracy=accuracy,
            )
        )
        tell(history[-1])
    return model.eval(), history


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the loss and the accuracy (0 to 1) on images."""
    logits = model.eval()(images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).float().mean().item()


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters with and without weight decay: biases, norms and tokens have none."""
    spared = model.no_weight_decay()  # type: ignore[operator]
    named = list(model.named_parameters())
    plain = [parameter for name, parameter in named if parameter.ndim < 2 or name in spared]
    decayed = [parameter for name, parameter in named if parameter.ndim >= 2 and name not in spared]
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def _warm_up_then_cosine(steps: int) -> Callable[[int], float]:
    warm_up = max(1, int(WARM_UP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor
