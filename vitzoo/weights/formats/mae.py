"""MAE's own files: timm's names, with or without the decoder of the pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, refuse, require, square
from vitzoo.weights.formats.infer import heads_or_unknown, infer
from vitzoo.weights.formats.names import drop, with_k_bias
from vitzoo.weights.source import Source

FORMAT = "mae"
_IMAGES = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=224 / 256)


class Mae:
    """The encoder of masked autoencoders: eps 1e-6, exact GELU, a stored table of sines as positions.

    Files with a decoder are detected; those of the encoder alone have timm's names, and are read with format='mae'.
    """

    def reasons_against(self, source: Source) -> list[str]:
        """Return why the weights are not of this format."""
        needed = ("patch_embed.proj.weight", "blocks.0.norm1.weight", "decoder_embed.weight")
        return [f"no {name}" for name in needed if name not in source.state]

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names."""
        state = dict(source.state)
        notes = drop(state, r"decoder_.+", "the decoder of masked autoencoding")
        notes += drop(state, "mask_token", "it stands in for masked patches in the decoder")
        settings = infer(state)
        heads, unknown = heads_or_unknown(settings["embed_dim"], hints)
        average = "fc_norm.weight" in state
        settings |= {
            **heads,
            "norm": "layernorm",
            "mlp": "gelu",
            "pool": "avg" if average else "token",
            "fc_norm": average,
            "pos_embed": ("learned", {"antialias": False}),
        }
        return Reading(state=state, settings=settings, unknown=unknown, preprocess=_IMAGES, notes=tuple(notes))

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, preprocess: Preprocess) -> Writing:
        """Return the weights under MAE's names, without a decoder."""
        average = config.pool.name == "avg"
        require(config, FORMAT, pool=("token", "avg"), uses_fc_norm=average, qkv_fused=True)
        square(config, FORMAT)
        refuse(FORMAT, [f"norm={config.norm} (possible: eps 1e-6)"] if eps_of(config) != 1e-6 else [])
        full = with_k_bias(state)
        notes = drop(full, "mask_token", "MAE's is the decoder's")
        return Writing(state=full, notes=tuple(notes))
