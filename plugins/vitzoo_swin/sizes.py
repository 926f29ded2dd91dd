"""The sizes: one row a model. Imports no torch; a row imports the model when it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitzoo_swin.config import SwinConfig

LICENSE = "mit"
PAPERS = {
    1: ("Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "2103.14030"),
    2: ("Swin Transformer V2: Scaling Up Capacity and Resolution", "2111.09883"),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model of the zoo; calling it builds the model.

    Args:
        name: the model's name without the plugin's.
        timm: timm's name of it, or '' when timm has none.
        config: its settings.
        params: number of parameters with 1000 classes.
        crop_pct: share of the resized image that is cut out of its centre.
    """

    name: str
    timm: str
    config: SwinConfig
    params: int
    crop_pct: float = 0.9

    def __call__(self, **settings: Any) -> Any:
        """Build the model with settings of `SwinConfig` changed.

        Raises:
            ConfigError: a setting that does not exist, or that no model can have.
        """
        from vitzoo_swin.model import SwinTransformer

        return SwinTransformer(self.config.with_changes(**settings), crop_pct=self.crop_pct)


# Embedding width, blocks of the third stage and heads of the first: paper of version 1, section 3.3.
_SHAPES = {"tiny": (96, 6, 3), "small": (96, 18, 3), "base": (128, 18, 4), "large": (192, 18, 6)}


def _config(version: int, shape: str, window: int, side: int, pretrained: tuple[int, ...] = ()) -> SwinConfig:
    width, depth, heads = _SHAPES[shape]
    return SwinConfig(
        version=version,
        img_size=(side, side),
        embed_dim=width,
        depths=(2, 2, depth, 2),
        num_heads=(heads, 2 * heads, 4 * heads, 8 * heads),
        window_size=((window, window),) * 4,
        pretrained_window_sizes=tuple((old, old) for old in pretrained),
    )


def _v1(shape: str, window: int, side: int, params: int) -> Size:
    name = f"{shape}_patch4_window{window}_{side}"
    crop_pct = 1.0 if side == 384 else 0.9
    return Size(
        name=name, timm=f"swin_{name}", config=_config(1, shape, window, side), params=params, crop_pct=crop_pct
    )


def _v2(shape: str, window: int, side: int, params: int, *, from_192: bool = False) -> Size:
    # Fine-tuned from windows of 12 at 192 pixels, where the last stage's grid is 6.
    name = f"{shape}_window12to{window}_192to{side}" if from_192 else f"{shape}_window{window}_{side}"
    config = _config(2, shape, window, side, (12, 12, 12, 6) if from_192 else ())
    crop_pct = 1.0 if side == 384 else 0.9
    return Size(name=f"v2_{name}", timm=f"swinv2_{name}", config=config, params=params, crop_pct=crop_pct)


SIZES: tuple[Size, ...] = (
    _v1("tiny", 7, 224, 28_288_354),
    _v1("small", 7, 224, 49_606_258),
    _v1("base", 7, 224, 87_768_224),
    _v1("base", 12, 384, 87_903_584),
    _v1("large", 7, 224, 196_532_476),
    _v1("large", 12, 384, 196_735_516),
    _v2("tiny", 8, 256, 28_347_154),
    _v2("tiny", 16, 256, 28_347_154),
    _v2("small", 8, 256, 49_728_418),
    _v2("small", 16, 256, 49_728_418),
    _v2("base", 8, 256, 87_918_816),
    _v2("base", 12, 192, 87_918_816),
    _v2("base", 16, 256, 87_918_816),
    _v2("base", 16, 256, 87_918_816, from_192=True),
    _v2("base", 24, 384, 87_918_816, from_192=True),
    _v2("large", 12, 192, 196_739_932),
    _v2("large", 16, 256, 196_739_932, from_192=True),
    _v2("large", 24, 384, 196_739_932, from_192=True),
)

# A model of any size: what weights without a row above become.
ANY: tuple[Size, ...] = (
    Size(name="v1", timm="", config=SwinConfig(version=1), params=28_288_354),
    Size(name="v2", timm="", config=_config(2, "tiny", 8, 256), params=28_347_154),
)

ALIASES = {
    "tiny": "tiny_patch4_window7_224",
    "small": "small_patch4_window7_224",
    "base": "base_patch4_window7_224",
    "large": "large_patch4_window7_224",
    "v2_tiny": "v2_tiny_window8_256",
    "v2_small": "v2_small_window8_256",
    "v2_base": "v2_base_window8_256",
    "v2_large": "v2_large_window12_192",
}

# A model that is small enough to test with: two stages, windows that divide neither grid.
TEST_CONFIG: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 3,
    "num_classes": 10,
    "drop_path_rate": 0.0,
}
