"""What people read of a model: the attributes that timm's users know, derived from the config."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitzoo.config import ViTConfig
from vitzoo.embed.patch import PatchEmbed
from vitzoo.embed.rope import Rope
from vitzoo.preprocess import Preprocess
from vitzoo.provenance import Provenance


class Surface(nn.Module):
    """The readable side of a Vision Transformer; the model itself is in `model.py`.

    Args:
        config: the numbers and switches.
    """

    patch_embed: PatchEmbed
    rope: Rope | None
    blocks: nn.ModuleList

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = Preprocess()
        # Where the weights come from; None for weights that were drawn here.
        self.provenance: Provenance | None = None
        self.labels: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 when there is none."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Image channels."""
        return self.config.in_chans

    @property
    def embed_dim(self) -> int:
        """Width C of a token."""
        return self.config.embed_dim

    num_features = head_hidden_size = embed_dim

    @property
    def global_pool(self) -> str:
        """The pool's name."""
        return self.config.pool.name

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class, distillation, registers."""
        return self.config.num_prefix_tokens

    @property
    def num_reg_tokens(self) -> int:
        """Number of register tokens."""
        return self.config.reg_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.config.class_token

    @property
    def no_embed_class(self) -> bool:
        """Whether positions are for patches only."""
        return self.config.no_embed_class

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For every block: its module name, its channels, and how many pixels one step of its grid is."""
        reduction = self.patch_embed.feat_ratio()
        return [
            {"module": f"blocks.{i}", "num_chs": self.embed_dim, "reduction": reduction[0]}
            for i in range(len(self.blocks))
        ]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The preprocessing as timm spells it, so that timm's `resolve_model_data_config(model)` works."""
        return self.preprocess.to_timm(
            in_chans=self.in_chans, img_size=self.config.img_size, num_classes=self.num_classes
        )

    default_cfg = pretrained_cfg

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that weight decay should leave alone."""
        tokens = {"pos_embed", "cls_token", "reg_token", "dist_token", "mask_token"}
        return tokens | {"rope.freqs"} if self.rope is not None else tokens

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the regular expressions that sort parameters into layers, as timm's layer decay reads them."""
        return {
            "stem": r"^cls_token|dist_token|reg_token|mask_token|pos_embed|patch_embed|norm_pre|rope",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }
