"""The demo's pictures. Figures are made without pyplot, so that no global state changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitzoo.demo.train import Epoch
from vitzoo.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"
GREY = "#555555"
DPI = 120


def draw_curves(history: Sequence[Epoch], path: Path) -> None:
    """Draw the losses and the held-out accuracy over the epochs."""
    figure = _figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    epochs = [epoch.number for epoch in history]
    left.plot(epochs, [epoch.train_loss for epoch in history], color=BLUE)
    left.plot(epochs, [epoch.held_out_loss for epoch in history], color=ORANGE)
    left.set_ylim(bottom=0)
    left.set_title("loss", loc="left", fontsize=11)
    _label_end(left, epochs[-1], history[-1].train_loss, "training (smoothed labels)", BLUE)
    _label_end(left, epochs[-1], history[-1].held_out_loss, "held out", ORANGE)
    accuracy = [100 * epoch.held_out_accuracy for epoch in history]
    right.plot(epochs, accuracy, color=ORANGE)
    right.axhline(97, color=GREY, linewidth=0.8, linestyle=":")
    right.text(epochs[0] + 1, 97, "97 %", color=GREY, va="bottom", fontsize=8)
    right.locator_params(axis="y", nbins=5)
    right.set_ylim(80 if accuracy[-1] > 85 else 0, 100.5)
    right.set_title("accuracy on held-out digits, %", loc="left", fontsize=11)
    right.annotate(
        f"{accuracy[-1]:.1f} %",
        (epochs[-1], 97),
        xytext=(-4, -5),
        textcoords="offset points",
        ha="right",
        va="top",
        color=ORANGE,
    )
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    _save(figure, path)


def draw_digits(
    images: Tensor, attention: Tensor, predictions: Tensor, labels: Tensor, path: Path, *, columns: int = 10
) -> None:
    """Draw digits in a grid, with the class token's attention over each and its prediction below.

    Args:
        images: (N, 1, H, W).
        attention: (N, rows, columns), the class token's weights on the patches.
        predictions: (N,).
        labels: (N,).
        path: the picture.
        columns: digits a row.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    rows = -(-len(images) // columns)
    figure = _figure(columns * 0.92, rows * 1.16 + 0.55)
    height, width = images.shape[-2:]
    smooth = F.interpolate(attention[:, None], size=(8 * height, 8 * width), mode="bicubic").clamp(min=0)[:, 0]
    for index, axes in enumerate(figure.subplots(rows, columns).flat):
        axes.axis("off")
        if index >= len(images):
            continue
        frame = (-0.5, width - 0.5, height - 0.5, -0.5)
        # Grey ink, so that the colour over it can be seen.
        low, high = images.min().item(), images.max().item()
        axes.imshow(images[index, 0].numpy(), cmap="gray_r", extent=frame, vmin=low, vmax=low + 1.5 * (high - low))
        # One colour whose opacity is the attention: ink and attention stay apart.
        glow = torch.tensor(to_rgb(ORANGE)).expand(*smooth.shape[1:], 3)
        opacity = 0.85 * smooth[index] / smooth[index].max()
        axes.imshow(torch.cat([glow, opacity[..., None]], dim=-1).numpy(), extent=frame)
        prediction, label = int(predictions[index]), int(labels[index])
        right = prediction == label
        axes.set_title(
            str(prediction) if right else f"{prediction}, is {label}",
            fontsize=10,
            color=BLUE if right else RED,
            fontweight="normal" if right else "bold",
            y=-0.27,
        )
        if not right:
            axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=RED, linewidth=2))
    figure.suptitle(
        "Held-out digits: what the model says, and where its class token looks (orange)", x=0.01, ha="left", fontsize=11
    )
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _label_end(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(-4, 5), textcoords="offset points", ha="right", va="bottom", color=color, fontsize=9
    )


def _save(figure: Any, path: Path) -> None:
    with written_whole(path) as draft:
        figure.savefig(draft, format="png")
