"""The swin plugin: the same numbers as the libraries', through vitzoo's doors alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from torch import Tensor, nn
from vitzoo_swin.manifest import register

import vitzoo
from vitzoo.plugin import Registrar, get_registry, plugins

# float64; tables of timm are resized in float32.
EXACT, FLOAT32_RESIZE = 1e-10, 1e-6
SMALL: dict[str, Any] = {
    "img_size": 56,
    "embed_dim": 16,
    "depths": (2, 2, 2),
    "num_heads": (2, 4, 4),
    "window_size": 5,
    "num_classes": 7,
    "drop_path_rate": 0.0,
}


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> Iterator[None]:
    """Register the plugin as an installed package would, where none is, and keep to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with get_registry().temporary() as registry:
        if "swin" not in plugins():
            registrar = Registrar("swin")
            register(registrar)
            registrar.commit(registry)
        yield
    torch.set_num_threads(threads)


def error(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    assert got.shape == expected.shape
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


def randomized(model: nn.Module) -> nn.Module:
    """Move every weight of a float64 model away from where it starts: some start at 0 and hide what they scale."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


def image(*size: int) -> Tensor:
    """Return two images in float64."""
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def timm_pair(version: int, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return vitzoo's and timm's model of the small size with the same weights."""
    settings = {**SMALL, **settings} | ({"pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})
    theirs = randomized((TimmSwin if version == 1 else TimmSwinV2)(**settings, strict_img_size=False))
    ours = vitzoo.create(f"swin/v{version}", dtype=torch.float64, **settings).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("always_partition", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_outputs_features_and_gradients_are_timms_at_sizes_that_windows_do_not_divide(
    version: int, always_partition: bool
) -> None:
    ours, theirs = timm_pair(version, always_partition=always_partition)
    for size in ((56, 56), (60, 44), (16, 100)):
        x = image(*size)
        features, expected = (model.forward_intermediates(x, norm=True) for model in (ours, theirs))
        for one, other in zip(features[1], expected[1], strict=True):
            assert error(one, other) < EXACT, size
        assert error(features[0], expected[0]) < EXACT
        logits, their_logits = ours(x), theirs(x)
        assert error(logits, their_logits) < EXACT, size
    logits.square().sum().backward()
    their_logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert error(parameter.grad, gradients[name]) < EXACT, name


def torchvision_model(version: int) -> nn.Module:
    """Return a small model of torchvision's, which keeps buffers in its state dict."""
    from torchvision.models import swin_transformer as tv

    settings = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4]}
    second = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2} if version == 2 else {}
    return tv.SwinTransformer(**settings, window_size=[4, 4], num_classes=7, **second)


def transformers_model(version: int, *, classes: int, **settings: Any) -> nn.Module:
    """Return a small model of transformers."""
    import transformers

    family = {1: "Swin", 2: "Swinv2"}[version]
    config = getattr(transformers, f"{family}Config")(
        **{
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2, 2],
            "num_heads": [2, 4, 4],
            "window_size": 4,
            "num_labels": classes,
            **settings,
        }
    )
    return getattr(transformers, f"{family}{'ForImageClassification' if classes else 'Model'}")(config)


def out_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits, or the pooled features of a model without classes."""
    result = model(x)
    if isinstance(result, Tensor):
        return result
    return result.logits if "logits" in result else result.pooler_output


@pytest.mark.parametrize("version", [1, 2])
@torch.inference_mode()
def test_timms_files_are_read_and_written(version: int, tmp_path: Path) -> None:
    ours, theirs = timm_pair(version)
    file = tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), file)
    told = {"img_size": 56, **({"window_size": 5, "pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})}
    loaded = vitzoo.load(file, dtype=torch.float64, **told).eval()
    assert loaded.load_report.format == "swin/timm"
    assert loaded.model_name == f"swin/v{version}"
    assert error(loaded(image(56, 56)), theirs(image(56, 56))) < EXACT

    vitzoo.save(ours, tmp_path / "ours.safetensors", format="swin/timm")
    fresh = (TimmSwin if version == 1 else TimmSwinV2)(
        **{**SMALL, **({"pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})}
    ).double()
    fresh.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    assert error(ours(image(56, 56)), fresh.eval()(image(56, 56))) < EXACT


@pytest.mark.parametrize("version", [1, 2])
@torch.inference_mode()
def test_torchvisions_files_are_read_and_written_and_any_size_gives_its_numbers(version: int, tmp_path: Path) -> None:
    theirs, file = randomized(torchvision_model(version)), tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    ours = vitzoo.load(file, dtype=torch.float64).eval()
    assert ours.load_report.format == "swin/torchvision"
    for size in ((64, 64), (72, 100), (16, 44)):
        assert error(ours(image(*size)), theirs(image(*size))) < EXACT, size

    vitzoo.save(ours, tmp_path / "ours.safetensors", format="swin/torchvision")
    again = torchvision_model(version).double().eval()
    again.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    assert error(again(image(72, 100)), theirs(image(72, 100))) < EXACT


@pytest.mark.parametrize(
    ("version", "classes", "settings"),
    [
        (1, 7, {}),
        (1, 0, {"hidden_act": "quick_gelu", "image_size": 80}),
        (2, 7, {"pretrained_window_sizes": [3, 3, 2, 0]}),
        (2, 0, {"qkv_bias": False, "window_size": 6}),
    ],
)
@torch.inference_mode()
def test_directories_of_transformers_are_read_and_written(
    version: int, classes: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs = randomized(transformers_model(version, classes=classes, **settings))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = vitzoo.load(tmp_path / "theirs", dtype=torch.float64).eval()
    assert ours.load_report.format == "swin/transformers"
    x = image(*ours.settings.img_size)
    assert error(ours(x), out_of(theirs, x)) < EXACT

    vitzoo.save(ours, tmp_path / "ours", format="swin/transformers")
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, dtype=torch.float64)
    assert not any(info.values()), info
    assert error(out_of(again.eval(), x), out_of(theirs, x)) < EXACT
    # In memory version 5 has other names than on disk.
    save_file(theirs.state_dict(), tmp_path / "theirs" / "model.safetensors")
    assert error(vitzoo.load(tmp_path / "theirs", dtype=torch.float64).eval()(x), out_of(theirs, x)) < EXACT
