"""What a checkpoint expects its images to be: size, crop, interpolation, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vitzoo.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import nn

INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From an image file to what the model takes.

    Args:
        mean: subtracted from each channel of an image in [0, 1].
        std: what each channel is then divided by.
        crop_pct: share of the resized image's side that the centre crop keeps.
        interpolation: how the image is resized: nearest, bilinear or bicubic.
        crop_mode: 'center': resize the shorter side, then crop; 'squash': resize both sides, then crop.

    Raises:
        ConfigError: a value that no image can be processed with.
    """

    mean: tuple[float, ...] = INCEPTION_MEAN
    std: tuple[float, ...] = INCEPTION_STD
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ConfigError(f"mean={self.mean} and std={self.std} are not one value a channel, std above 0")
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct={self.crop_pct} is out of range (possible: 0 < crop_pct <= 1)")
        if self.interpolation not in INTERPOLATIONS or self.crop_mode not in ("center", "squash"):
            raise ConfigError(
                f"interpolation={self.interpolation!r} or crop_mode={self.crop_mode!r} is unknown "
                f"(possible: {', '.join(INTERPOLATIONS)}; center, squash)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def to_timm(self, *, in_chans: int, img_size: tuple[int, int], num_classes: int) -> dict[str, Any]:
        """Return the dict that timm's `resolve_data_config` reads."""
        mean, std = self.for_channels(in_chans)
        return {
            "input_size": (in_chans, *img_size),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "mean": mean,
            "std": std,
            "num_classes": num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }

    def resized(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image is resized to before it is cropped to `img_size`."""
        # A quotient such as 224 / (224 / 256) may fall a rounding error short of the whole number that was meant.
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in img_size)
        return height, width

    def for_channels(self, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (mean, std) for a number of channels: as they are, or their averages repeated."""
        if len(self.mean) == in_chans:
            return self.mean, self.std
        count = len(self.mean)
        return (sum(self.mean) / count,) * in_chans, (sum(self.std) / count,) * in_chans


def transforms(model: nn.Module, *, train: bool = False) -> Callable[[Any], Any]:
    """Return torchvision v2 transforms from a PIL image or a tensor (C, H, W) to what the model takes.

    Size, crop, interpolation, mean and standard deviation are the checkpoint's own. A PIL image is resized by Pillow,
    as timm and torchvision do it for evaluation, so its pixels are theirs; a tensor, uint8 or floats in [0, 1], is
    resized by torch.

    Args:
        model: a model that `vitzoo.create` or `vitzoo.load` made.
        train: a crop of 8 to 100 % of the image at a ratio of 3/4 to 4/3, and a flip in half of the cases, instead of
            resizing and cropping the centre: what all recipes share. Put stronger augmentations before it.

    Returns:
        A callable; its result is a float32 tensor (in_chans, height, width). What is no such image, or has more than 8
        bits a channel, raises `vitzoo.errors.InputError`.

    Raises:
        ConfigError: the model says nothing of its images, or takes a number of channels other than 1 and 3.
    """
    import torch
    from torchvision.transforms import InterpolationMode, v2

    preprocess = getattr(model, "preprocess", None)
    config = getattr(model, "config", None)
    if not isinstance(preprocess, Preprocess) or config is None:
        raise ConfigError(f"{type(model).__name__} does not say how its images are to be processed")
    # A plugin's own model keeps its settings in a mapping.
    settings = config if isinstance(config, Mapping) else vars(config)
    if not {"in_chans", "img_size"} <= settings.keys():
        raise ConfigError(f"{type(model).__name__} has no in_chans and img_size among its settings")
    in_chans, size = settings["in_chans"], settings["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    if in_chans not in (1, 3):
        raise ConfigError(f"an image file has 1 or 3 channels; the model takes in_chans={in_chans}")
    mode = InterpolationMode(preprocess.interpolation)
    mean, std = preprocess.for_channels(in_chans)
    if train:
        fit: list[Any] = [v2.RandomResizedCrop((height, width), interpolation=mode), v2.RandomHorizontalFlip()]
    else:
        resized = preprocess.resized((height, width))
        if preprocess.crop_mode == "squash":
            resize: Any = v2.Resize(resized, interpolation=mode)
        elif height == width:
            # One number lets torchvision keep the image's proportions.
            resize = v2.Resize(resized[:1], interpolation=mode)
        else:
            resize = v2.Lambda(partial(_cover, size=resized, mode=mode))
        fit = [resize, v2.CenterCrop((height, width))]
    return v2.Compose(
        [
            _checked,
            v2.RGB() if in_chans == 3 else v2.Grayscale(),
            *fit,
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def has_wide_channels(mode: str) -> bool:
    """Return whether a PIL image of that mode has more than 8 bits a channel: Pillow clips them on the way to RGB."""
    return mode[0] == "I" or mode == "F"


def _checked(image: Any) -> Any:
    """Return the image, or raise: torchvision hands on unchanged what it does not know as one."""
    import torch
    from PIL.Image import Image

    if isinstance(image, Image):
        if not has_wide_channels(image.mode):
            return image
        given = f"a PIL image of more than 8 bits a channel (mode {image.mode!r})"
    elif not isinstance(image, torch.Tensor):
        given = f"a {type(image).__module__}.{type(image).__qualname__}"
    elif (image.dtype == torch.uint8 or image.is_floating_point()) and image.ndim >= 3 and image.shape[-3] in (1, 3):
        return image
    else:
        given = f"a {str(image.dtype).removeprefix('torch.')} tensor of shape {tuple(image.shape)}"
    raise InputError(
        f"{given} was given as an image (possible: a PIL image of 8 bits a channel, such as PIL.Image.fromarray makes "
        "of a uint8 array; a tensor (C, H, W) of 1 or 3 channels, uint8 or floats in [0, 1]): convert it first"
    )


def _cover(image: Any, *, size: tuple[int, int], mode: Any) -> Any:
    """Resize an image, its proportions kept, to the smallest size that covers (height, width)."""
    from torchvision.transforms.v2 import functional

    height, width = functional.get_size(image)
    scale = max(size[0] / height, size[1] / width)
    return functional.resize(image, [round(height * scale), round(width * scale)], interpolation=mode)
