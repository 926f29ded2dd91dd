"""transformers' image models: which class reads a directory, and which of its outputs are a plain ViT's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.weights.source import Source

# {class: the outputs that are compared}. The pooler of ViTModel is a layer that vitzoo has not; the tokens of CLIP are
# those before its last norm; ViTMAE is compared with all patches kept, in their order.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "ViTModel": ("tokens",),
    "ViTForImageClassification": ("tokens", "logits"),
    "DeiTModel": ("tokens",),
    "DeiTForImageClassification": ("tokens", "logits"),
    "DeiTForImageClassificationWithTeacher": ("tokens", "logits"),
    "ViTMAEModel": ("tokens",),
    "ViTMAEForPreTraining": ("tokens",),
    "Dinov2Model": ("tokens", "pooler_output"),
    "Dinov2WithRegistersModel": ("tokens", "pooler_output"),
    "DINOv3ViTModel": ("tokens", "pooler_output"),
    "CLIPVisionModel": ("pooler_output",),
    "CLIPVisionModelWithProjection": ("image_embeds",),
    "CLIPModel": ("image_features",),
    "SiglipVisionModel": ("tokens", "pooler_output"),
    "SiglipModel": ("image_features",),
}
WITH_POOLER = ("ViTModel", "DeiTModel")


def read(path: Path, source: Source, dtype: torch.dtype) -> tuple[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Return the class's name and what runs the model that it makes of a directory.

    Raises:
        CheckpointError: no directory with a config.json that names one of `OUTPUTS`, or weights that are missing,
            unexpected or of another shape.
    """
    named = (source.config or {}).get("architectures") or [None]
    if not path.is_dir() or named[0] not in OUTPUTS:
        raise CheckpointError(
            f"transformers needs a directory whose config.json names one of its classes that vitzoo reads (possible: "
            f"{', '.join(OUTPUTS)}); {source.name} names {named[0]!r}"
        )
    options: dict[str, Any] = {"mask_ratio": 0.0} if named[0].startswith("ViTMAE") else {}
    if named[0] in WITH_POOLER:
        options["add_pooling_layer"] = any(name.endswith("pooler.dense.weight") for name in source.state)
    library = importlib.import_module("transformers")
    model, info = getattr(library, named[0]).from_pretrained(
        path, dtype=dtype, output_loading_info=True, local_files_only=True, **options
    )
    if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
        raise CheckpointError(f"transformers does not load {source.name} strictly: {wrong}")
    model.eval()
    return named[0], lambda x: _outputs(model, x, named[0])


def _outputs(model: Any, x: Tensor, name: str) -> dict[str, Tensor]:
    if name.startswith("ViTMAE"):
        patches = (x.shape[-2] // model.config.patch_size) * (x.shape[-1] // model.config.patch_size)
        order = torch.arange(float(patches)).expand(x.shape[0], -1)
        return {"tokens": model.base_model(x, noise=order).last_hidden_state}
    wanted = OUTPUTS[name]
    result: dict[str, Tensor] = {}
    if wanted == ("image_features",):
        features = model.get_image_features(pixel_values=x)
        return {"out": features if isinstance(features, Tensor) else features.pooler_output}
    given = model(x)
    for output in wanted:
        if output == "tokens":
            body = given if "last_hidden_state" in given else model.base_model(x)
            result["tokens"] = body.last_hidden_state
        elif given.get(output) is not None:
            result["out"] = given[output]
    return result
