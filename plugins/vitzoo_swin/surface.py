"""What people read of the model: the attributes that timm's users know, derived from the settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitzoo.config import FrozenDict
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo_swin.block import Stage
from vitzoo_swin.config import SwinConfig


class Surface(nn.Module):
    """The readable side of the model; the model itself is in `model.py`.

    Args:
        settings: the numbers and switches.
        crop_pct: share of the resized image that evaluation cuts out of its centre.
    """

    layers: nn.Sequential
    # What a checkpoint of vitzoo's changes that no shape tells.
    switches = ("act_layer", "always_partition", "pad_first", "pool")

    def __init__(self, settings: SwinConfig, *, crop_pct: float) -> None:
        super().__init__()
        self.settings = settings
        self.preprocess = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=crop_pct, interpolation="bicubic")
        self.labels: tuple[str, ...] = ()

    @property
    def config(self) -> FrozenDict:
        """The arguments that build the model again, as a checkpoint keeps them."""
        return FrozenDict(self.settings.to_dict())

    @property
    def stages(self) -> list[Stage]:
        """The stages, from the finest on."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 when there is none."""
        return self.settings.num_classes

    @property
    def in_chans(self) -> int:
        """Image channels."""
        return self.settings.in_chans

    @property
    def embed_dim(self) -> int:
        """Channels of the first stage."""
        return self.settings.embed_dim

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.settings.widths[-1]

    head_hidden_size = num_features

    @property
    def global_pool(self) -> str:
        """The pool's name."""
        return self.settings.pool

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For every stage: its module name, its channels, and how many pixels one step of its grid is."""
        reduction = max(self.settings.patch_size)
        return [
            {"module": f"layers.{stage}", "num_chs": width, "reduction": reduction * 2**stage}
            for stage, width in enumerate(self.settings.widths)
        ]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The preprocessing as timm spells it, so that timm's `resolve_model_data_config(model)` works."""
        config = self.settings
        images = self.preprocess.to_timm(
            in_chans=config.in_chans, img_size=config.img_size, num_classes=config.num_classes
        )
        return {**images, "classifier": "head.fc"}

    default_cfg = pretrained_cfg

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that weight decay should leave alone."""
        parts = ("relative_position_bias_table", "cpb_mlp", "logit_scale")
        return {name for name, _ in self.named_parameters() if any(part in name for part in parts)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the regular expressions that sort parameters into layers, as timm's layer decay reads them."""
        fine = [(r"^layers\.(\d+)\.downsample", (0,)), (r"^layers\.(\d+)\.\w+\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else fine}
