"""The swin plugin: the same numbers as the libraries', through vitzoo's doors alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
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
