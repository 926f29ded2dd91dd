"""Every backend gives every family the same numbers, within the budget that float32 allows: outputs and all gradients."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from families import FAMILIES, small
from torch import Tensor, nn

import vitzoo
from vitzoo import AttentionCaps
from vitzoo.registry import Registry
from vitzoo.testing import assert_within_budget, low_precision_attention

ORDERS = 8


def results(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the logits and every parameter's gradient, on an image whose grid is not the model's own."""
    torch.manual_seed(1)
    image, weights = torch.randn(2, 3, 40, 24), torch.randn(2, 5)
    model = model.to(dtype)
    logits = model(image.to(dtype))
    (logits * weights.to(dtype)).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **grads}


@cache
def expected(family: str) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return the truth in float64, and what float32 makes of it when attention sums in several orders."""
    truth = results(small(family, attn="reference"), torch.float64)
    caps = AttentionCaps(devices=("cpu",), dtypes=("float32",), head_dims=None, backward=True, cross=True)
    yardsticks = []
    for order in range(ORDERS):
        vitzoo.register("attention", f"test/low{order}", caps=caps)(partial(only_output, order=order))
        yardsticks.append(results(small(family, attn=f"test/low{order}"), torch.float32))
    return truth, yardsticks


def only_output(q: Tensor, k: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Run the low-precision attention as a backend."""
    return low_precision_attention(q, k, v, order=order)[0].contiguous()


@pytest.mark.parametrize("backend", ["reference", "sdpa", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_backend_is_within_the_budget_in_every_family(registry: Registry, family: str, backend: str) -> None:
    truth, yardsticks = expected(family)
    actual = results(small(family, attn=backend), torch.float32)
    assert actual.keys() == truth.keys()
    for name, value in truth.items():
        assert_within_budget(actual[name], value, [low[name] for low in yardsticks], name=f"{backend} {name}")


@pytest.mark.interpreter
def test_the_kernel_runs_in_half_precision_and_refuses_what_it_cannot() -> None:
    image = torch.randn(2, 3, 32, 32)
    for attn in ("triton", "sdpa"):
        logits = small("siglip", attn=attn).half()(image.half())
        torch.testing.assert_close(logits.float(), small("siglip")(image), rtol=2e-2, atol=2e-2)
    with pytest.raises(vitzoo.VitzooError, match=r"dtype=bfloat16 \(supported: float16, float32\)"):
        small("vit", attn="triton").bfloat16()(image.bfloat16())
    with pytest.raises(vitzoo.VitzooError, match=r"dtype=float64 \(supported: float16, float32\)"):
        small("vit", attn="triton").double()(image.double())
    report = str(vitzoo.explain_attention(small("vit", attn="triton"), image))
    assert "triton ran 17 queries x 17 keys" in report
