"""Models of other libraries: built by the library's own code, their weights loaded by its own strict loader."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitzoo.attention.caps import installed_version
from vitzoo.errors import CheckpointError, MissingPackageError
from vitzoo.weights.formats.infer import HEADS, SAY_HEADS
from vitzoo.weights.source import Source

Outputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that a library is to read.

    Args:
        path: the local file or directory.
        source: what lies in it.
        format: vitzoo's name of its format.
        model: the name of the model, when the caller gave it.
        settings: settings of the model, when the caller gave them.
    """

    path: Path
    source: Source
    format: str
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model that somebody built from a checkpoint.

    Args:
        name: who and what: 'timm vit_tiny_patch16_224'.
        run: images (B, in_chans, H, W) to {'out', 'tokens'}, as far as the model gives them.
        unseen: what both sides were told alike, so that a mistake in it is not seen.
    """

    name: str
    run: Callable[[Tensor], Outputs]
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """A library that reads its own format, and perhaps others when it is asked to.

    Args:
        package: the module that is imported.
        distribution: what is to be installed for it.
        read: builds the library's model in a dtype.
        others: vitzoo's names of the other formats that it reads.
    """

    package: str
    distribution: str
    read: Callable[[Checkpoint, torch.dtype], Reader]
    others: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return installed_version(self.distribution)


def read_with(library: Library, checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    """Return the library's model of a checkpoint.

    Raises:
        MissingPackageError: the library is not installed.
        CheckpointError: the library cannot load these weights strictly; the message holds its own words.
    """
    if library.version is None:
        raise MissingPackageError(
            f"{checkpoint.source.name} is of the format {checkpoint.format!r}, and {library.package} is not installed: "
            f"pip install {library.distribution}"
        )
    try:
        return library.read(checkpoint, dtype)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{library.package} does not load {checkpoint.source.name}: {error}") from error


def _read_timm(checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    timm = importlib.import_module("timm")
    if checkpoint.format != "timm":
        return _read_with_timms_converter(checkpoint, dtype)
    if checkpoint.path.is_dir():
        model = timm.create_model(f"local-dir:{checkpoint.path}", pretrained=True, dtype=dtype)
        name = (checkpoint.source.config or {})["architecture"]
    else:
        if checkpoint.model is None:
            raise CheckpointError(
                f"{checkpoint.source.name} holds weights alone, and timm needs a name: --model vit_tiny_patch16_224"
            )
        name = checkpoint.model
        model = timm.create_model(name, checkpoint_path=str(checkpoint.path), dtype=dtype, **checkpoint.settings)
    model = model.to(dtype).eval()
    return Reader(name=f"timm {name}", run=lambda x: {"out": model(x), "tokens": model.forward_features(x)})


def _read_with_timms_converter(checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    timm = importlib.import_module("timm")
    if checkpoint.model is None or checkpoint.path.is_dir():
        raise CheckpointError(
            f"timm reads the format {checkpoint.format!r} from a file, into a model that is named: "
            "--model vit_small_patch14_dinov2"
        )
    state = checkpoint.source.state
    classes = state["head.weight"].shape[0] if "head.weight" in state else 0
    options = {"num_classes": classes, **checkpoint.settings}
    overlay = {"file": str(checkpoint.path), "num_classes": classes}
    model = timm.create_model(
        checkpoint.model, pretrained=True, pretrained_cfg_overlay=overlay, dtype=dtype, **options
    ).eval()

    def run(x: Tensor) -> Outputs:
        outputs = {"tokens": model.forward_features(x), "out": model(x)}
        if checkpoint.format == "dinov3":
            # timm averages the patches where the authors take the class token.
            del outputs["out"]
        return outputs

    unseen = "a mistake that timm's converter and vitzoo's have in common: neither is the authors' code"
    return Reader(name=f"timm {checkpoint.model}", run=run, unseen=(unseen,))


def _read_torchvision(checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    module = importlib.import_module("torchvision.models.vision_transformer")
    state = checkpoint.source.state
    hidden, _, patch, _ = state["conv_proj.weight"].shape
    layers = len([name for name in state if name.endswith("self_attention.in_proj_weight")])
    heads = checkpoint.settings.get("num_heads", HEADS.get(hidden))
    if heads is None:
        raise CheckpointError(f"{checkpoint.source.name}: num_heads: {SAY_HEADS.format(dim=hidden)}")
    model = module.VisionTransformer(
        image_size=math.isqrt(state["encoder.pos_embedding"].shape[1] - 1) * patch,
        patch_size=patch,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=hidden,
        mlp_dim=_mlp_dim(state),
        num_classes=state["heads.head.weight"].shape[0],
    ).to(dtype)
    model.load_state_dict(dict(state), strict=True)
    model.eval()
    return Reader(
        name=f"torchvision VisionTransformer({layers} layers, {hidden} wide, {heads} heads)",
        run=lambda x: {"out": model(x)},
        unseen=(f"the number of heads: torchvision's files do not hold it, and both were built with {heads}",),
    )


def _mlp_dim(state: Mapping[str, Tensor]) -> int:
    names = (f"encoder.layers.encoder_layer_0.mlp.{name}.weight" for name in ("0", "linear_1"))
    return next(state[name].shape[0] for name in names if name in state)


def _read_open_clip(checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    model_cfg = (checkpoint.source.config or {}).get("model_cfg")
    if model_cfg is None:
        raise CheckpointError(
            f"{checkpoint.source.name} is a file alone, and open_clip builds its tower from open_clip_config.json: "
            "verify the directory that holds both"
        )
    module = importlib.import_module("open_clip.model")
    vision = module.CLIPVisionCfg(**model_cfg["vision_cfg"])
    tower: nn.Module = module._build_vision_tower(model_cfg["embed_dim"], vision, bool(model_cfg.get("quick_gelu")))
    state = checkpoint.source.state
    own = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    tower = tower.to(dtype)
    tower.load_state_dict(own, strict=True)
    tower.eval()
    return Reader(name="open_clip VisionTransformer", run=lambda x: {"out": tower(x)})


def _read_transformers(checkpoint: Checkpoint, dtype: torch.dtype) -> Reader:
    from vitzoo.parity.transformers import read

    name, run = read(checkpoint.path, checkpoint.source, dtype)
    return Reader(name=f"transformers {name}", run=run)


LIBRARIES: dict[str, Library] = {
    "open_clip": Library("open_clip", "open_clip_torch", _read_open_clip),
    "timm": Library("timm", "timm", _read_timm, ("dinov2", "dinov3", "mae")),
    "torchvision": Library("torchvision", "torchvision", _read_torchvision),
    "transformers": Library("transformers", "transformers", _read_transformers),
}
