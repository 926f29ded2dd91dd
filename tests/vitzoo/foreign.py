"""Small models of other libraries, in float64, with weights in which no value is special."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers as hf
from layouts import Dinov2, Dinov3, Jax, Mae
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

Outputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A model of another library.

    Args:
        format: vitzoo's name of the library's format.
        make: makes the model.
        save: writes it the library's own way under a directory, and returns what vitzoo is to read.
        again: makes the library's model from what vitzoo wrote, strictly; None when vitzoo does not write the format.
        outputs: {'out', 'tokens'} of an image, as far as the library gives them.
        told: settings that the files do not hold.
        limit: largest relative difference.
    """

    format: str
    make: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], Path]
    again: Callable[[Twin, Path], nn.Module] | None
    outputs: Callable[[nn.Module, Tensor], Outputs]
    told: dict[str, Any] = field(default_factory=dict)
    limit: float = 1e-10

    def model(self) -> nn.Module:
        """Return the model with random weights."""
        torch.manual_seed(0)
        return randomized(self.make().double().eval())


def randomized(model: nn.Module) -> nn.Module:
    """Fill every parameter: what the first norm sees is small, so that its eps shows in the result."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            one = parameter.ndim == 1 and any(
                part in name for part in ("norm", "ln", "lambda", "gamma", "layrnorm", "ls")
            )
            centre = 1.0 if one and not name.endswith("bias") else 0.0
            small = any(part in name for part in ("patch", "conv", "embed", "token", "cls", "class_"))
            parameter.copy_(centre + value * (0.01 if small else 0.15))
    return model


def image(height: int = 32, width: int = 32) -> Tensor:
    """Return two random images."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)


SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def _hf(cls: str, config: str, *, outputs: Callable[[nn.Module, Tensor], Outputs], **changes: Any) -> Twin:
    options = changes.pop("options", {})
    limit = changes.pop("limit", 1e-10)
    wide = {} if "Dinov2" in config else {"intermediate_size": 48}
    return Twin(
        format="transformers",
        make=lambda: getattr(hf, cls)(getattr(hf, config)(**{**SIZE, **wide, **changes}), **options),
        save=_save_hf,
        again=partial(_hf_again, cls=cls, options=options),
        outputs=outputs,
        limit=limit,
    )


def _save_hf(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def _hf_again(twin: Twin, path: Path, *, cls: str, options: dict[str, Any]) -> nn.Module:
    if cls == "ViTMAEModel":
        cls, options = "ViTModel", {"add_pooling_layer": False}
    assert json.loads((path / "config.json").read_text())["architectures"] == [cls]
    model, info = getattr(hf, cls).from_pretrained(path, dtype=torch.float64, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def _logits(model: nn.Module, x: Tensor, **more: Any) -> Outputs:
    return {"out": model(x, **more).logits}


def _tokens(model: nn.Module, x: Tensor, **more: Any) -> Outputs:
    return {"tokens": model(x, **more).last_hidden_state}


def _pooled(model: nn.Module, x: Tensor, **more: Any) -> Outputs:
    result = model(x, **more)
    return {"tokens": result.last_hidden_state, "out": result.pooler_output}


def _pooled_alone(model: nn.Module, x: Tensor, **more: Any) -> Outputs:
    return {"out": model(x, **more).pooler_output}


def _embeds(model: nn.Module, x: Tensor, **more: Any) -> Outputs:
    return {"out": model(x, **more).image_embeds}


def _unmasked(model: nn.Module, x: Tensor) -> Outputs:
    # The encoder of masked autoencoding is written as a ViT; here it keeps all patches, in their order.
    more = {"noise": torch.arange(16.0).expand(x.shape[0], -1)} if isinstance(model, hf.ViTMAEModel) else {}
    return _tokens(model, x, **more)


def _timm(name: str, *, limit: float = 1e-10, **settings: Any) -> Twin:
    own = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, **settings}
    return Twin(
        format="timm",
        make=lambda: timm.create_model(name, **own),
        save=partial(_save_timm, own=own),
        again=lambda twin, path: _strict(twin, load_file(path)),
        outputs=lambda model, x: {"out": model(x), "tokens": model.forward_features(x)},
        limit=limit,
    )


def _save_timm(model: nn.Module, folder: Path, *, own: dict[str, Any]) -> Path:
    save_for_hf(model, folder, model_args=own, safe_serialization=True)
    return folder


def _strict(twin: Twin, state: dict[str, Tensor]) -> nn.Module:
    model = twin.make().double().eval()
    model.load_state_dict(state, strict=True)
    return model


def _torchvision(heads: int, *, old: bool = False, **settings: Any) -> Twin:
    own = {"image_size": 32, "patch_size": 8, "num_layers": 2, "hidden_dim": 32, "mlp_dim": 48, "num_classes": 5}

    def save(model: nn.Module, folder: Path) -> Path:
        state = model.state_dict()
        if old:
            names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
            for new, before in names.items():
                state = {name.replace(new, before): tensor for name, tensor in state.items()}
        torch.save(state, folder / "weights.pth")
        return folder / "weights.pth"

    return Twin(
        format="torchvision",
        make=lambda: VisionTransformer(num_heads=heads, **{**own, **settings}),
        save=save,
        again=lambda twin, path: _strict(twin, load_file(path)),
        outputs=lambda model, x: {"out": model(x)},
        told={"num_heads": heads},
    )


def _open_clip(*, quick_gelu: bool, **settings: Any) -> Twin:
    vision = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32, **settings}
    model_cfg = {"embed_dim": 24, "quick_gelu": quick_gelu, "vision_cfg": vision}

    def save(model: nn.Module, folder: Path) -> Path:
        state = {f"visual.{name}": tensor for name, tensor in model.state_dict().items()}
        # What belongs to the text tower is no image model's.
        text = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}
        save_file({**state, **text}, folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
        return folder

    def again(twin: Twin, path: Path) -> nn.Module:
        written = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]
        tower = _build_vision_tower(
            written["embed_dim"], CLIPVisionCfg(**written["vision_cfg"]), written["quick_gelu"]
        ).double()
        state = load_file(path / "open_clip_model.safetensors")
        tower.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items()}, strict=True)
        return tower.eval()

    return Twin(
        format="open_clip",
        make=lambda: _build_vision_tower(24, CLIPVisionCfg(**vision), quick_gelu),
        save=save,
        again=again,
        outputs=lambda model, x: {"out": model(x)},
    )


def _layout(
    format: str, make: Callable[[], nn.Module], key: str, told: dict[str, Any] | None = None, *, limit: float = 1e-10
) -> Twin:
    """Return a model written out for the tests, kept as its authors keep it: a torch file."""

    def save(model: nn.Module, folder: Path) -> Path:
        torch.save({"model": model.state_dict()}, folder / "weights.pth")
        return folder / "weights.pth"

    def again(twin: Twin, path: Path) -> nn.Module:
        model = twin.make().double().eval()
        written = load_file(path)
        # A decoder is not written, and blocks are written in one chunk.
        chunked = {
            name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): name for name in written
        }
        names = chunked if any("blocks.0.0." in name for name in model.state_dict()) else {n: n for n in written}
        missing, unexpected = model.load_state_dict({n: written[o] for n, o in names.items()}, strict=False)
        assert not unexpected
        assert all(name.startswith(("decoder_", "mask_token")) for name in missing), missing
        return model

    return Twin(
        format=format,
        make=make,
        save=save,
        again=again,
        outputs=lambda model, x: {key: model(x)},
        told={**({} if format == "dinov3" else {"num_heads": 4}), **(told or {})},
        limit=limit,
    )


def _jax(**settings: Any) -> Twin:
    """Return a model written out for the tests, kept as JAX's code keeps it: an .npz file, which is read only."""

    def save(model: nn.Module, folder: Path) -> Path:
        np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
        return folder / "weights.npz"

    return Twin(
        format="jax",
        make=partial(Jax, **settings),
        save=save,
        again=None,
        outputs=lambda model, x: {"out": model(x)},
    )


_NO_POOLER = {"options": {"add_pooling_layer": False}}
TWINS: dict[str, Twin] = {
    "timm_vit": _timm("vit_tiny_patch16_224", patch_size=8, num_classes=5),
    "timm_dinov2_giant": _timm("vit_giant_patch14_reg4_dinov2", patch_size=8, mlp_ratio=3.0),
    "timm_eva": _timm("vit_small_patch16_dinov3_qkvb", patch_size=8),
    "vit_logits": _hf("ViTForImageClassification", "ViTConfig", outputs=_logits, num_labels=5),
    "vit_tanh_nobias": _hf(
        "ViTModel", "ViTConfig", outputs=_tokens, hidden_act="gelu_pytorch_tanh", qkv_bias=False, **_NO_POOLER
    ),
    "vit_eps": _hf("ViTModel", "ViTConfig", outputs=_tokens, layer_norm_eps=1e-3, patch_size=16, **_NO_POOLER),
    "deit_teacher": _hf("DeiTForImageClassificationWithTeacher", "DeiTConfig", outputs=_logits, num_labels=5),
    "deit_one_head": _hf("DeiTForImageClassification", "DeiTConfig", outputs=_logits, num_labels=5),
    "deit_tokens": _hf("DeiTModel", "DeiTConfig", outputs=_tokens, hidden_act="quick_gelu", **_NO_POOLER),
    "dinov2": _hf("Dinov2Model", "Dinov2Config", outputs=_pooled, mlp_ratio=2),
    "dinov2_swiglu": _hf("Dinov2Model", "Dinov2Config", outputs=_pooled, mlp_ratio=4, use_swiglu_ffn=True),
    "dinov2_tanh": _hf("Dinov2Model", "Dinov2Config", outputs=_pooled, hidden_act="gelu_new", mlp_ratio=3),
    "dinov2_reg": _hf("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", outputs=_pooled, mlp_ratio=2),
    "dinov2_reg_swiglu": _hf(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", outputs=_pooled, use_swiglu_ffn=True
    ),
    "dinov2_reg_one": _hf(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", outputs=_pooled, num_register_tokens=1, mlp_ratio=1
    ),
    "dinov3": _hf("DINOv3ViTModel", "DINOv3ViTConfig", outputs=_pooled, num_register_tokens=4, limit=1e-6),
    "dinov3_gated": _hf(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        outputs=_pooled,
        num_register_tokens=2,
        use_gated_mlp=True,
        hidden_act="silu",
        limit=1e-6,
    ),
    "dinov3_k_bias": _hf(
        "DINOv3ViTModel", "DINOv3ViTConfig", outputs=_pooled, key_bias=True, rope_theta=50.0, limit=1e-6
    ),
    "clip": _hf("CLIPVisionModelWithProjection", "CLIPVisionConfig", outputs=_embeds, projection_dim=24),
    "clip_gelu": _hf(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", outputs=_embeds, projection_dim=8, hidden_act="gelu"
    ),
    "clip_pooled": _hf("CLIPVisionModel", "CLIPVisionConfig", outputs=_pooled_alone, layer_norm_eps=1e-6),
    "siglip": _hf("SiglipVisionModel", "SiglipVisionConfig", outputs=_pooled),
    "siglip_gelu": _hf("SiglipVisionModel", "SiglipVisionConfig", outputs=_pooled, hidden_act="gelu", image_size=48),
    "siglip_rest": _hf("SiglipVisionModel", "SiglipVisionConfig", outputs=_pooled, image_size=36),
    "siglip_tokens": _hf("SiglipVisionModel", "SiglipVisionConfig", outputs=_tokens, vision_use_head=False),
    "vit_mae": _hf("ViTMAEModel", "ViTMAEConfig", outputs=_unmasked, mask_ratio=0.0),
    "vit_mae_eps": _hf("ViTMAEModel", "ViTMAEConfig", outputs=_unmasked, mask_ratio=0.0, layer_norm_eps=1e-5),
    "vit_mae_nobias": _hf("ViTMAEModel", "ViTMAEConfig", outputs=_unmasked, mask_ratio=0.0, qkv_bias=False),
    "torchvision": _torchvision(4),
    "torchvision_old": _torchvision(2, old=True),
    "torchvision_p16": _torchvision(8, patch_size=16, mlp_dim=128, image_size=64),
    "open_clip": _open_clip(quick_gelu=False),
    "open_clip_quick": _open_clip(quick_gelu=True, head_width=16, mlp_ratio=2.0),
    "open_clip_ls": _open_clip(quick_gelu=False, ls_init_value=0.1, patch_size=16),
    "open_clip_avg": _open_clip(quick_gelu=False, pool_type="avg", final_ln_after_pool=True),
    "own_dinov2": _layout("dinov2", partial(Dinov2, registers=0, gated=False), "tokens"),
    "own_dinov2_reg": _layout("dinov2", partial(Dinov2, registers=4, gated=True), "tokens"),
    "own_dinov2_chunks": _layout("dinov2", partial(Dinov2, registers=1, gated=False, chunks=True), "tokens"),
    "own_dinov3": _layout("dinov3", partial(Dinov3, heads=4, gated=False), "out", limit=1e-6),
    "own_dinov3_gated": _layout("dinov3", partial(Dinov3, heads=2, gated=True), "out", limit=1e-6),
    "own_dinov3_one": _layout("dinov3", partial(Dinov3, heads=8, gated=True, registers=1), "out", limit=1e-6),
    "jax_augreg": _jax(heads=4, augreg=True),
    "jax_big_vision": _jax(heads=2, augreg=False),
    "jax_map": _jax(heads=8, augreg=False, pooled=True),
    "own_mae": _layout("mae", partial(Mae, average=False, decoder=True), "out"),
    "own_mae_encoder": _layout("mae", partial(Mae, average=False, decoder=False), "out", {"format": "mae"}),
    "own_mae_finetuned": _layout("mae", partial(Mae, average=True, decoder=False), "out", {"format": "mae"}),
    "open_clip_avg_inside": _open_clip(quick_gelu=True, pool_type="avg", norm_kwargs={"eps": 1e-6}),
}
