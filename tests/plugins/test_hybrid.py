"""Hybrids of a ResNet and a ViT: timm's numbers, weights and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from vitzoo_hybrid.variants import VARIANTS

import vitzoo
from vitzoo.errors import ConfigError, InputError

SMALL: dict[str, Any] = {"depth": 1, "num_classes": 5}


def twin(name: str, **settings: Any) -> Any:
    """Return timm's model in float64 with random weights, every kernel other than standard."""
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **settings).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_(mean=0.1, std=0.05)
    return model


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_sizes_are_timms(variant: Any) -> None:
    classes = variant.config.num_classes
    with torch.device("meta"):
        ours = vitzoo.create(f"hybrid/{variant.name}")
    theirs = timm.create_model(variant.name, num_classes=classes, depth=1)
    assert sum(parameter.numel() for parameter in ours.parameters()) == variant.params
    own = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    named = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert named.items() <= own.items()
    assert not [name for name in own.keys() - named.keys() if not name.startswith("blocks.")]
    assert ours.patch_embed.grid_size == tuple(theirs.patch_embed.grid_size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_r_s16_p8_224", (64, 64)),
        ("vit_small_r26_s32_224", (64, 96)),
        ("vit_base_r50_s16_224", (32, 48)),
    ],
)
def test_timms_weights_give_timms_numbers_and_go_back(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = twin(name, img_size=size)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = vitzoo.create(
        f"hybrid/{name}", weights=tmp_path / "timm.safetensors", img_size=size, dtype=torch.float64, **SMALL
    ).eval()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = theirs(image)
    assert (ours(image) - expected).abs().max() <= 1e-10 * expected.abs().max()

    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.grad = None
    (ours(image).square().sum() + theirs(image).square().sum()).backward()
    for own, parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (own.grad - parameter.grad).abs().max() <= 1e-10 * parameter.grad.abs().max().clamp(min=1e-3)

    vitzoo.save(ours, tmp_path / "back.safetensors", format="timm")
    theirs.load_state_dict(load_file(tmp_path / "back.safetensors"), strict=True)
    vitzoo.save(ours, tmp_path / "own")
    again = vitzoo.load(tmp_path / "own", dtype=torch.float64).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.state_dict().items())


def test_another_size_and_a_dynamic_one_are_what_timm_gives_at_that_size(tmp_path: Path) -> None:
    theirs = twin("vit_small_r26_s32_224", img_size=64)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    model = vitzoo.create(
        "hybrid/r26_s32",
        weights=tmp_path / "timm.safetensors",
        img_size=64,
        dynamic_img_size=True,
        dtype=torch.float64,
        **SMALL,
    ).eval()
    image = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    dynamic = model(image)
    model.set_input_size((96, 64))
    torch.testing.assert_close(model(image), dynamic, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="90"):
        model(image[..., :90, :])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"layers": (1, 1, 1), "patch_size": 24},
            r"patch_size=\(24, 24\) is not a multiple of 16, the stride of a ResNet",
        ),
        ({"layers": (1, 0)}, r"layers=\(1, 0\) needs at least one block a stage"),
        (
            {"layers": (1,) * 5, "patch_size": 64},
            r"needs at least one block a stage, and has channels=\(256, 512, 1024, 2048\)",
        ),
        ({"channels": (200, 512, 1024)}, r"channels=\(200, 512, 1024\) \(possible: multiples of 32 and of 128\)"),
    ],
)
def test_what_no_resnet_has_is_refused(settings: dict[str, Any], words: str) -> None:
    settings = dict(settings)
    patch_size = settings.pop("patch_size", 16)
    with pytest.raises(ConfigError, match=words):
        vitzoo.create(
            "vit_tiny", depth=1, patch_size=patch_size, img_size=192, patch_embed=("hybrid/resnetv2", settings)
        )


def test_public_weights_are_known_with_their_licence() -> None:
    names = vitzoo.list_models("hybrid/*.*", pretrained=True)
    assert "hybrid/vit_base_r50_s16_384.orig_in21k_ft_in1k" in names
    assert len(names) == 11
    assert names == [name for name in vitzoo.list_models("hybrid/*.*", license="permissive") if name in names]
