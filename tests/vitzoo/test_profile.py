"""Costs that are computed without running: against published figures and against a real run."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SMALL

import vitzoo
from vitzoo.errors import InputError
from vitzoo.profile import profile


@pytest.mark.parametrize(
    ("name", "gmacs"),
    # torchvision states these for its own models ('GFLOPS', meaning multiply-adds).
    [("vit_b_16", 17.56), ("vit_b_32", 4.41), ("vit_l_32", 15.38)],
)
def test_multiply_adds_are_torchvisions(name: str, gmacs: float) -> None:
    assert profile(name).macs / 1e9 == pytest.approx(gmacs, abs=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_bytes_are_those_of_a_real_run(family: str) -> None:
    settings = {**SMALL, **FAMILIES[family]}
    model = vitzoo.create("vit_tiny", **settings)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.randn(3, 3, 40, 32))
    expected = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    cost = profile("vit_tiny", size=(40, 32), batch_size=3, **settings)
    assert output is not None
    assert cost.activation_bytes == expected
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


def test_the_largest_model_costs_no_memory_to_profile() -> None:
    cost = profile("vit_7b_patch16_dinov3", batch_size=64)
    assert cost.params == 6_716_030_976
    assert cost.param_bytes == 4 * cost.params
    assert cost.flops == 2 * cost.macs
    with pytest.raises(InputError, match="does not divide into patches"):
        profile("vit_tiny", size=(100, 100))
