"""What the families of transformers share: its config.json, its activations, its images, its block's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from vitzoo.config import ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.labels import labels_of
from vitzoo.preprocess import Preprocess
from vitzoo.weights.formats.base import Reading, Writing, eps_of, norm_of, square
from vitzoo.weights.formats.infer import heads_or_unknown, infer
from vitzoo.weights.report import Note

FORMAT = "transformers"
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
OWN_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
# PIL's numbers of its resampling filters.
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}

# Versions before 5 have these names in memory and on disk; versions from 5 on have the others in memory.
SPELLINGS = (
    (r"(.*\battention)\.(q|k|v)_proj\.(\w+)", r"\1.attention.{\2}.\3"),
    (r"(.*\battention)\.o_proj\.(\w+)", r"\1.output.dense.\2"),
)
_FULL = {"{q}": "query", "{k}": "key", "{v}": "value"}


class Family(Protocol):
    """Models of transformers with one layout."""

    @property
    def model_types(self) -> tuple[str, ...]:
        """config.json's 'model_type' of these models."""
        ...

    @property
    def images(self) -> Preprocess:
        """What images are expected to be, for lack of a preprocessor_config.json."""
        ...

    def bears_signs(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names are this family's; asked when there is no config.json."""
        ...

    def read(self, state: dict[str, Tensor], config: Mapping[str, Any], hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names; `config` is that of the vision model, and may be empty."""
        ...

    def write(self, state: Mapping[str, Tensor], config: ViTConfig) -> Writing:
        """Return the weights with config.json."""
        ...


def old_spelling(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names that files have, from either spelling."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in SPELLINGS:
            if re.fullmatch(pattern, name):
                name = re.sub(pattern, replacement, name)
                break
        for short, full in _FULL.items():
            name = name.replace(short, full)
        result[name] = tensor
    return result


def reading(
    state: dict[str, Tensor],
    config: Mapping[str, Any],
    hints: Mapping[str, Any],
    *,
    eps: float,
    activation: str,
    notes: list[Note],
    **settings: Any,
) -> Reading:
    """Return a Reading with what tensors and config.json tell; `eps` and `activation` are the family's defaults.

    Args:
        state: tensors under vitzoo's names.
        config: config.json of the vision model.
        hints: what the caller gave.
        eps: of the norms, when config.json does not say.
        activation: transformers' name of it, when config.json does not say.
        notes: what was done so far.
        **settings: what the family itself sets.
    """
    inferred = infer(state, config.get("image_size"))
    act = config.get("hidden_act", activation)
    if "mlp" not in inferred:
        if act not in ACTIVATIONS:
            raise CheckpointError(
                f"hidden_act={act!r} has no MLP in vitzoo (possible: {', '.join(ACTIVATIONS)}); nothing was loaded"
            )
        inferred["mlp"] = ACTIVATIONS[act]
    said = config.get("num_attention_heads")
    heads, unknown = ({"num_heads": said}, {}) if said else heads_or_unknown(inferred["embed_dim"], hints)
    if not config:
        what = f"norm eps={eps:g} and the activation {inferred['mlp']}"
        notes = [*notes, Note(action="set", what=what, why="the family's own, for lack of a config.json")]
    norm = norm_of(config.get("layer_norm_eps", eps))
    named = labels_of(config.get("id2label"))
    scale = {} if inferred["init_values"] is None else {"init_values": float(config.get("layerscale_value", 1e-5))}
    return Reading(
        state=state,
        settings={**inferred, **heads, **scale, "norm": norm, **settings},
        unknown=unknown,
        labels=named if len(named) == inferred["num_classes"] else (),
        notes=tuple(notes),
    )


def preprocess_of(images: Mapping[str, Any] | None) -> Preprocess | None:
    """Return what preprocessor_config.json says, or None."""
    if not images or "image_mean" not in images or images.get("do_normalize") is False:
        return None
    size, crop = _side(images.get("size")), _side(images.get("crop_size"))
    crops = bool(images.get("do_center_crop")) and crop is not None and size is not None
    return Preprocess(
        mean=tuple(images["image_mean"]),
        std=tuple(images["image_std"]),
        crop_pct=min(1.0, crop / size) if crops and crop and size else 1.0,
        crop_mode="center" if crops else "squash",
        interpolation=FILTERS.get(images.get("resample", 2), "bilinear"),
    )


def images_of(preprocess: Preprocess, *, img_size: tuple[int, int], in_chans: int, processor: str) -> dict[str, Any]:
    """Return preprocessor_config.json."""
    height, width = img_size
    resized = preprocess.resized((height, width))
    squash = preprocess.crop_mode == "squash" or height != width
    mean, std = preprocess.for_channels(in_chans)
    return {
        "image_processor_type": processor,
        "do_resize": True,
        "size": {"height": resized[0], "width": resized[1]} if squash else {"shortest_edge": resized[0]},
        "resample": {name: number for number, name in FILTERS.items()}[preprocess.interpolation],
        "do_center_crop": preprocess.crop_pct < 1 or not squash,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def config_of(config: ViTConfig, *, model_type: str, architecture: str, **own: Any) -> dict[str, Any]:
    """Return config.json, with what every family's has."""
    img_size, patch_size = square(config, FORMAT)
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_act": OWN_ACTIVATIONS.get(config.mlp.name, "silu"),
        "layer_norm_eps": eps_of(config),
        "image_size": img_size,
        "patch_size": patch_size,
        "num_channels": config.in_chans,
        **own,
    }


def labels(num_classes: int) -> dict[str, Any]:
    """Return config.json's names of so many classes."""
    names = {str(i): f"LABEL_{i}" for i in range(num_classes)}
    return {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}


def resizing_notes(config: ViTConfig, *, antialias: bool) -> tuple[Note, ...]:
    """Return a note when the model resizes positions otherwise than the family does."""
    ours = {"interpolation": "bicubic", "antialias": True, "align_corners": False, **config.pos_embed.args}
    theirs = {"interpolation": "bicubic", "antialias": antialias, "align_corners": False}
    if config.pos_embed.name != "learned" or ours == theirs:
        return ()
    how = f"bicubic {'with' if antialias else 'without'} antialiasing"
    why = f"{FORMAT} resizes by {how}: other numbers at other sizes"
    return (Note(action="dropped", what=str(config.pos_embed), why=why),)


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return size if isinstance(size, int) else None
