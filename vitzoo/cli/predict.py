"""`vitzoo predict`: what a model sees in an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitzoo.cli.output import console, show_json, show_table
from vitzoo.errors import CheckpointError, ConfigError, ImageError, InputError
from vitzoo.labels import imagenet_1k
from vitzoo.preprocess import has_wide_channels, transforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import nn

IMAGENET_CLASSES = 1000


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    weights: Annotated[str, typer.Option(help="A directory, a file of weights, or hf-hub:org/name.")],
    model: Annotated[str | None, typer.Option(help="A model name, when the weights do not tell their model.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file with the name of a class on each line.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    attn: Annotated[str, typer.Option(help="An attention backend.")] = "auto",
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, ...")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images. Names are those of --labels, else the checkpoint's, else ImageNet-1k's for 1000 classes."""
    # All files are opened before a model is built: a bad name costs nothing.
    opened = [read_image(path) for path in images]
    require_device(device)
    network = _load(model, weights, attn, device).eval()
    names, origin = class_names(network, labels)
    results: list[dict[str, Any]] = [
        {"image": str(path), "names": origin, "classes": _classify(network, image, names, top_k, path, device)}
        for path, image in zip(images, opened, strict=True)
    ]
    if json:
        show_json(results)
        return
    for result in results:
        rows = [(f"{row['probability']:.2%}", row["class"], row["name"]) for row in result["classes"]]
        show_table(["probability>", "class>", "name"], rows, title=result["image"])
    console.print(f"names: {origin}", markup=False, soft_wrap=True)


def read_image(path: Path) -> Image:
    """Return an image file as RGB, upright.

    Raises:
        ImageError: there is no such file, it is no image, it is damaged, it is too large to be one, or it has more than
            8 bits a channel.
    """
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow only warns of an image that would take gigabytes; here that is an error too.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ImageError(f"{str(path)!r} is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{str(path)!r} cannot be read as an image: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{str(path)!r} is too large to be safe: {error}") from error
    if has_wide_channels(upright.mode):
        raise ImageError(
            f"{str(path)!r} has more than 8 bits a channel (Pillow's mode {upright.mode!r}): scale it to 8 bits first, "
            "for what its lightest value stands for is not known"
        )
    return upright.convert("RGB")


def require_device(name: str) -> None:
    """Raise InputError unless a model can compute on the device of that name here."""
    import torch

    reason = "it holds no numbers"
    try:
        if torch.zeros(1, device=name).device.type != "meta":
            return
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
    possible = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    raise InputError(f"device {name!r} cannot be used here: {reason} (possible: {', '.join(possible)})")


def class_names(network: nn.Module, labels: Path | None) -> tuple[Sequence[str], str]:
    """Return the classes' names and where they are from.

    Raises:
        InputError: the file has another number of lines, or cannot be read; or the model has no classes.
    """
    num_classes: int = network.num_classes  # type: ignore[assignment]
    if num_classes == 0:
        raise InputError("this model gives features, not classes: its num_classes is 0")
    if labels is not None:
        try:
            names = labels.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the labels {str(labels)!r} cannot be read: {error}") from error
        if len(names) != num_classes:
            raise InputError(f"{str(labels)!r} names {len(names)} classes; the model has {num_classes}")
        return names, str(labels)
    own = getattr(network, "labels", ())
    if len(own) == num_classes:
        return own, "the checkpoint's own"
    if num_classes == IMAGENET_CLASSES:
        return imagenet_1k(), "ImageNet-1k's, for the checkpoint has 1000 classes and names none"
    return [str(number) for number in range(num_classes)], "none in the checkpoint; give them with --labels FILE"


def _load(model: str | None, weights: str, attn: str, device: str) -> nn.Module:
    import vitzoo

    if model is not None:
        return vitzoo.create(model, weights=weights, attn=attn, device=device)
    try:
        return vitzoo.load(weights, attn=attn, device=device)
    except CheckpointError as error:
        if not Path(weights).is_file():
            raise
        raise CheckpointError(f"{error}\nIf the file does not tell its model, name it with --model") from error


def _classify(
    network: nn.Module, image: Image, names: Sequence[str], top_k: int, path: Path, device: str
) -> list[dict[str, Any]]:
    import torch

    with torch.inference_mode():
        logits = network(transforms(network)(image)[None].to(device))[0]
    if logits.ndim != 1:
        raise ConfigError(f"the model gives a {tuple(logits.shape)} for an image, not one value a class")
    if not logits.isfinite().all():
        raise InputError(
            f"the model gave NaN or infinity for {str(path)!r}: the weights hold NaN, or are of another model"
        )
    probabilities, classes = logits.float().softmax(dim=-1).topk(min(top_k, len(names)))
    return [
        {"class": number, "name": names[number], "probability": round(probability, 6)}
        for number, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]
