"""torch.compile, torch.export and ONNX: one model of each family, one graph for all sizes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from families import FAMILIES, small
from torch import Tensor
from torch._dynamo.utils import counters
from torch.export import Dim

SIZES = [(32, 40), (32, 32), (48, 16), (64, 64), (24, 56)]


@pytest.mark.parametrize("family", FAMILIES)
def test_five_sizes_compile_to_one_graph_without_a_break(family: str) -> None:
    model = small(family, attn="sdpa", depth=1)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in SIZES:
            image = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(image), model(image))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.interpreter
def test_five_sizes_train_on_the_kernel_in_one_graph() -> None:
    model = small("vit", attn="triton", depth=1).train()
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in SIZES:
        image = torch.randn(2, 3, *size)
        grads = []
        for run in (model, compiled):
            model.zero_grad()
            run(image).square().sum().backward()
            grads.append([parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(*grads)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("family", ["vit", "rope_mixed", "siglip"])
def test_compiled_training_gives_the_same_gradients(family: str) -> None:
    model = small(family, attn="sdpa").train()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    image = torch.randn(2, 3, 32, 32)
    grads = []
    for run in (model, compiled):
        model.zero_grad()
        run(image).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def exported(family: str) -> tuple[torch.nn.Module, torch.export.ExportedProgram]:
    """Return a small model and its export with dynamic batch, height and width."""
    model = small(family, attn="sdpa", depth=1)
    step = model.patch_embed.stride[0]
    sides = {
        axis: Dim(name, min=2, max=32) * step if step == model.patch_embed.patch_size[0] else Dim.AUTO
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    shapes = {"x": {0: Dim("batch", min=1, max=64), **sides}}
    return model, torch.export.export(model, (torch.randn(2, 3, 32, 40),), dynamic_shapes=shapes)


@pytest.mark.parametrize("family", FAMILIES)
def test_export_with_dynamic_batch_height_and_width_and_onnx(family: str, tmp_path: Path) -> None:
    import onnxruntime

    model, program = exported(family)
    cases: list[Tensor] = [torch.randn(batch, 3, *size) for batch, size in zip((1, 2, 3, 1, 4), SIZES, strict=True)]
    module = program.module()
    with torch.no_grad():
        for image in cases:
            torch.testing.assert_close(module(image), model(image))
    file = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        # The exporter's own deprecations are not ours to mend.
        warnings.simplefilter("ignore")
        torch.onnx.export(program, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file)
    name = session.get_inputs()[0].name
    with torch.no_grad():
        for image in cases[:3]:
            actual = torch.from_numpy(session.run(None, {name: image.numpy()})[0])
            torch.testing.assert_close(actual, model(image), rtol=1e-4, atol=1e-5)
