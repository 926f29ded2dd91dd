"""vitzoo's attention inside timm, transformers and torch's own SDPA, each the real library."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
import transformers
import vitzoo_kernels
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import vitzoo
from vitzoo.attention.caps import AttentionCaps
from vitzoo.attention.select import Attend
from vitzoo.compat import sdpa, switch
from vitzoo.compat import timm as in_timm
from vitzoo.compat import transformers as in_transformers
from vitzoo.errors import BackendUnsupported, InputError, NameConflictError, UnknownNameError
from vitzoo.registry import Registry


@dataclass
class Counted:
    """A backend that remembers with what it was called."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        self.calls.append(options)
        return vitzoo_kernels.attention_reference(q, k, v, **options)


@pytest.fixture
def counted(registry: Registry) -> Counted:
    """The backend `lab/counted`, which runs everything."""
    caps = AttentionCaps(
        devices=("cpu",),
        dtypes=("float32", "float64"),
        head_dims=None,
        backward=True,
        cross=True,
        bias=True,
        bias_grad=True,
        key_mask=True,
        dropout=True,
    )
    return vitzoo.register("attention", "lab/counted", caps=caps)(Counted())


@pytest.fixture
def named() -> Iterator[None]:
    """What transformers knows; what a test registers is gone afterwards."""
    attention, masks = (
        transformers.AttentionInterface._global_mapping,
        transformers.AttentionMaskInterface._global_mapping,
    )
    kept = dict(attention), dict(masks)
    yield
    for mapping, before in zip((attention, masks), kept, strict=True):
        mapping.clear()
        mapping.update(before)


SMALL = {"img_size": 32, "num_classes": 5}
NARROW = {**SMALL, "depth": 2, "embed_dim": 48, "num_heads": 3}
# Name, arguments, and how often a forward pass attends.
IN_TIMM = {
    "plain": ("vit_tiny_patch16_224", {**SMALL, "depth": 2}, 2),
    "pooled by attention": ("vit_base_patch16_siglip_224", NARROW, 3),
    "rope": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 28, "depth": 2}, 2),
    "bias": ("beit_base_patch16_224", NARROW, 2),
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "depths": (2, 2), "embed_dim": 32, "num_heads": (2, 4), "num_classes": 5},
        4,
    ),
    "values wider than keys": ("vit_dpwee_patch16_reg1_gap_256", {**NARROW, "num_heads": 2}, 4),
    "images and heads in one": ("samvit_base_patch16_224", NARROW, 2),
    "windows as a dimension": (
        "hiera_tiny_224",
        {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1), "num_classes": 5},
        4,
    ),
}


def of_timm(case: str) -> tuple[nn.Module, Tensor, int]:
    """Return a small model with random weights, in float64, images for it, and how often it attends."""
    name, arguments, calls = IN_TIMM[case]
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).double().eval()
    for parameter in model.parameters():
        # Timm starts at zero what a bias or a scale adds.
        nn.init.normal_(parameter, std=0.1)
    return model, torch.randn(2, 3, arguments["img_size"], arguments["img_size"], dtype=torch.float64), calls


def with_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output and every gradient."""
    out = model(x)
    out.sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return [out.detach(), *grads]


@pytest.mark.parametrize("case", IN_TIMM)
def test_a_model_of_timm_runs_on_a_backend_and_back(case: str, counted: Counted) -> None:
    model, x, calls = of_timm(case)
    before = with_gradients(model, x)
    assert in_timm.use(model, "lab/counted") is model
    for ours, theirs in zip(with_gradients(model, x), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert len(counted.calls) == calls
    assert in_timm.restore(model) is model
    assert all(torch.equal(x, y) for x, y in zip(with_gradients(model, x), before, strict=True))
    assert len(counted.calls) == calls
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_a_switched_model_of_timm_still_can(counted: Counted) -> None:
    model, x, calls = of_timm("plain")
    want = model(x)
    in_timm.use(model, "lab/counted")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(in_timm.use(of_timm("plain")[0], "sdpa")))):
        in_timm.restore(model)
        # The copy has a switch of its own.
        torch.testing.assert_close(other(x), want)
        assert all(vars(module)["forward"].layer is module for module in other.modules() if "forward" in vars(module))
        in_timm.use(model, "lab/counted")
    counted.calls.clear()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), want)
    assert len(counted.calls) == calls
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), want)


def test_dropout_and_masks_of_timm_arrive(counted: Counted) -> None:
    model, x, _ = of_timm("plain")
    in_timm.use(model, "lab/counted")
    mask = torch.rand(2, 1, 5, 5) < 0.7
    mask |= torch.eye(5, dtype=torch.bool)
    theirs = of_timm("plain")[0].forward_features(x, attn_mask=mask)
    torch.testing.assert_close(model.forward_features(x, attn_mask=mask), theirs)
    assert all(options.keys() == {"bias"} for options in counted.calls)
    counted.calls.clear()
    for block in model.blocks:
        block.attn.attn_drop.p = 0.25
    model.train()(x)
    assert [options["dropout_p"] for options in counted.calls] == [0.25, 0.25]


def test_layers_that_timm_was_told_not_to_fuse_come_back_so(counted: Counted) -> None:
    model, x, calls = of_timm("plain")
    for block in model.blocks:
        block.attn.fused_attn = False
    in_timm.use(model, "sdpa")
    in_timm.use(model, "lab/counted")(x)
    assert len(counted.calls) == calls
    in_timm.restore(model)
    assert not any(block.attn.fused_attn for block in model.blocks)


def test_what_cannot_be_switched_in_timm_is_left_alone(registry: Registry) -> None:
    with pytest.raises(InputError, match="ResNet has no layer with timm's switch fused_attn.*vitzoo.set_attention"):
        in_timm.use(timm.create_model("resnet18"))
    model = of_timm("plain")[0]
    with pytest.raises(UnknownNameError, match="tritn"):
        in_timm.use(model, "tritn")
    vitzoo.register("attention", "lab/wide", caps=AttentionCaps(devices=("cpu",), head_dims=(128,)))(lambda q, k, v: q)
    with pytest.raises(BackendUnsupported, match=r"head_dim=64 \(supported: 128\)"):
        in_timm.use(model, "lab/wide")
    assert not any("forward" in vars(module) for module in model.modules())
    model.blocks[1].attn.forward = model.blocks[1].attn.forward
    with pytest.raises(
        InputError, match=r"another library has put a forward of its own into 'blocks.1.attn'; call use"
    ):
        in_timm.use(model, "sdpa")
    assert "forward" not in vars(model.blocks[0].attn)


def by_its_own_name(q: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, q, q)


def by_a_module(q: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, q, q)


def imported_within(q: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.scaled_dot_product_attention(q, q, torch.relu(q))


def named_within(q: Tensor) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention as attention

    return attention(q, q, q)


def by_both(q: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, q, imported_within.F.scaled_dot_product_attention(q, q, q))


@pytest.mark.parametrize("function", [by_its_own_name, by_a_module])
def test_a_function_is_switched_by_every_name_of_sdpa(function: Any, counted: Counted) -> None:
    q = torch.randn(1, 2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(switch.switched(function, Attend("lab/counted"))(q), function(q))
    assert len(counted.calls) == 1


@pytest.mark.parametrize("function", [nn.Linear.forward, imported_within, named_within, by_both, nn.Identity()])
def test_a_function_in_which_nothing_would_be_replaced_is_refused(function: Any) -> None:
    with pytest.raises(InputError, match=r"does not call scaled_dot_product_attention itself, by a name that its mod"):
        switch.switched(function, Attend("sdpa"))


def siglip2() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model whose images differ in how many patches they have, and two images."""
    torch.manual_seed(0)
    config = transformers.Siglip2VisionConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=3, num_patches=16, patch_size=4
    )
    model = transformers.Siglip2VisionModel(config).double().eval()
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 9:] = 0
    inputs = {
        "pixel_values": torch.randn(2, 16, 48, dtype=torch.float64),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[4, 4], [3, 3]]),
    }
    return model, inputs


def plain(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a small model of one kind of transformers, and two images."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 16}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes)).double().eval()
    return model, {"pixel_values": torch.randn(2, 3, 32, 32, dtype=torch.float64)}


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "CLIPVision", "Siglip2"])
def test_a_model_of_transformers_runs_on_a_backend(kind: str, counted: Counted, named: None) -> None:
    model, inputs = siglip2() if kind == "Siglip2" else plain(kind)
    # In eager mode transformers' softmax is float32, whatever the model.
    model.set_attn_implementation("sdpa")
    want = with_output(model, inputs)
    model.set_attn_implementation(in_transformers.register("lab/counted"))
    assert model.config._attn_implementation == "vitzoo_lab_counted"
    for ours, theirs in zip(with_output(model, inputs), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    if kind == "Siglip2":
        # Two layers see who is padding; the pooling layer is torch's own.
        masks = [options["key_mask"] for options in counted.calls]
        assert len(masks) == 2
        assert all(torch.equal(mask, inputs["pixel_attention_mask"].bool()) for mask in masks)
    else:
        assert counted.calls == [{"scale": 0.25}] * 2


def with_output(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the features and every gradient."""
    out = model(**inputs).last_hidden_state
    if "pixel_attention_mask" in inputs:
        # What padding becomes is nobody's concern.
        out = out * inputs["pixel_attention_mask"][..., None]
    out.sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return [out.detach(), *grads]


def test_what_is_asked_of_transformers_wrongly(registry: Registry, named: None) -> None:
    with pytest.raises(UnknownNameError, match="tritn"):
        in_transformers.register("tritn")
    with pytest.raises(InputError, match="name='lab/own' has a '/'"):
        in_transformers.register("sdpa", name="lab/own")
    with pytest.raises(NameConflictError, match="knows another attention by the name 'sdpa'; pass another as name="):
        in_transformers.register("reference", name="sdpa")
    transformers.AttentionMaskInterface.register("masked", print)
    with pytest.raises(NameConflictError, match="knows another mask by the name 'masked'; pass another as name="):
        in_transformers.register("reference", name="masked")
    assert transformers.AttentionMaskInterface()["masked"] is print
    assert "masked" not in transformers.AttentionInterface()
    for name in ("lab/a_b", "lab_a/b"):
        vitzoo.register("attention", name, caps=AttentionCaps(devices=("cpu",), head_dims=None))(print)
    assert in_transformers.register("lab/a_b") == in_transformers.register(("lab/a_b",)) == "vitzoo_lab_a_b"
    with pytest.raises(NameConflictError, match=r"stands for attn=\('lab/a_b',\); pass a name for 'lab_a/b' as name="):
        in_transformers.register("lab_a/b")
    assert in_transformers.register("sdpa", name="own") == in_transformers.register("reference", name="own") == "own"
    model, _ = plain("ViT")
    model.set_attn_implementation("own")
    attend = transformers.AttentionInterface()["own"]
    q = torch.randn(1, 2, 5, 8)
    with pytest.raises(InputError, match="output_attentions was asked of vitzoo's attention.*'eager'"):
        attend(model, q, q, q, None, output_attentions=True)
    with pytest.raises(InputError, match="softcap was asked of vitzoo's attention"):
        attend(model, q, q, q, None, softcap=30.0)


MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.6},
    "bool of keys": {"attn_mask": torch.tensor([[True] * 3 + [False] * 2, [True] * 5])[:, None, None]},
    "bool of all queries": {"attn_mask": (torch.arange(5) < 4).expand(6, 5)},
    "added": {"attn_mask": torch.linspace(-2, 2, 30, dtype=torch.float64).view(6, 5)},
    "causal": {"is_causal": True},
    "groups": {"enable_gqa": True, "scale": 0.3},
}


@pytest.mark.parametrize("images", [(), (2,), (2, 1, 1)], ids=["3d", "4d", "6d"])
@pytest.mark.parametrize("case", MASKS)
def test_the_arguments_of_sdpa_mean_the_same(case: str, images: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    heads = 2 if case == "groups" else 4
    q, k, v = (torch.randn(*images, *size, dtype=torch.float64) for size in ((4, 6, 8), (heads, 5, 8), (heads, 5, 8)))
    options = dict(MASKS[case])
    mask = options.get("attn_mask")
    if mask is not None and mask.ndim == 4:
        options["attn_mask"] = mask.view(*images, *mask.shape[1:]) if images else mask[0]
    ours = switch.attend_as_sdpa(Attend("reference"), q, k, v, **options)
    torch.testing.assert_close(ours, scaled_dot_product_attention(q, k, v, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ((1, 4, 6, 8), (3, 4, 5, 8), (3, 4, 5, 8)),
        ((3, 1, 6, 8), (1, 4, 5, 8), (4, 5, 8)),
        ((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 12)),
        ((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 6)),
        ((2, 1, 4, 6, 8), (1, 3, 4, 5, 8), (1, 3, 4, 5, 10)),
        ((4, 6, 8), (3, 4, 5, 8), (4, 5, 8)),
    ],
)
def test_the_shapes_of_sdpa_broadcast(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (query, key, value)]
    want = scaled_dot_product_attention(*inputs)
    ours = switch.attend_as_sdpa(Attend("reference"), *inputs)
    torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (ours, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_an_expanded_mask_has_the_gradient_of_every_element() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    leaf = torch.randn(1, 4, 6, 6, dtype=torch.float64).expand(2, -1, -1, -1).requires_grad_()
    row = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    for mask, wanted in ((leaf, leaf), (row.expand(2, 4, 6, 6), row)):
        found = [
            torch.autograd.grad(out.square().sum(), wanted)[0]
            for out in (
                switch.attend_as_sdpa(Attend("reference"), q, q, q, mask),
                scaled_dot_product_attention(q, q, q, mask),
            )
        ]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_sdpa_is_asked_for_one_mask_and_for_heads() -> None:
    q = torch.randn(1, 2, 3, 8)
    with pytest.raises(InputError, match="attn_mask and is_causal=True were both given"):
        switch.attend_as_sdpa(Attend("sdpa"), q, q, q, torch.zeros(3, 3), is_causal=True)
    with pytest.raises(InputError, match=r"query has shape \(3, 8\); vitzoo's attention takes \(\.\.\., heads, N"):
        switch.attend_as_sdpa(Attend("sdpa"), q[0, 0], q[0, 0], q[0, 0])
    with pytest.raises(InputError, match=r"attn_mask has shape \(3,\); it broadcasts to \(\.\.\., heads, N_q, N_k\)"):
        switch.attend_as_sdpa(Attend("sdpa"), q, q, q, torch.zeros(3))
    with pytest.raises(InputError, match="2 heads of queries are no multiple of 3 of keys"):
        switch.attend_as_sdpa(Attend("sdpa"), q, q.expand(3, 2, 3, 8).transpose(0, 1), q, enable_gqa=True)


def test_torch_knows_the_kernel_by_name() -> None:
    from torch.nn import attention

    assert sdpa.register() == "vitzoo"
    assert "vitzoo" in attention.list_flash_attention_impls()
    assert attention.current_flash_attention_impl() is None
    attention.activate_flash_attention_impl("vitzoo")
    assert attention.current_flash_attention_impl() == "vitzoo"
    attention.restore_flash_attention_impl()
    assert attention.current_flash_attention_impl() is None


@pytest.mark.interpreter
@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_the_kernel_stands_for_the_flash_attention_of_torch(dropout_p: float) -> None:
    operator = torch.ops.aten._scaled_dot_product_flash_attention
    torch.manual_seed(0)
    # Laid out as heads first, and as slices of a packed tensor.
    packed = torch.randn(2, 21, 3, 2, 16).requires_grad_()
    for layout in ("heads first", "packed"):
        q, k, v = (x.transpose(1, 2) for x in packed.unbind(2))
        if layout == "heads first":
            q, k, v = (x.contiguous() for x in (q, k, v))
        active = sdpa.activate("CPU")
        out, lse, *_, seed, _, _ = operator(q, k, v, dropout_p, scale=0.3)
        (grad,) = torch.autograd.grad(out.square().sum(), packed)
        active.remove()
        assert out.stride() == torch.empty_like(q).stride()
        keep = None
        if dropout_p:
            keep = vitzoo_kernels.dropout_mask(seed.view(torch.int64), dropout_p, (2, 2, 21, 21))
        scores = q @ k.transpose(-1, -2) * 0.3
        weights = scores.softmax(-1) if keep is None else scores.softmax(-1) * keep / (1 - dropout_p)
        want = weights @ v
        (want_grad,) = torch.autograd.grad(want.square().sum(), packed)
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=1e-4)
        with pytest.raises(NotImplementedError):
            operator(q, k, v)


@pytest.mark.interpreter
def test_what_the_kernel_has_not_is_refused_within_torch() -> None:
    q = torch.randn(1, 2, 5, 16)
    active = sdpa.activate("CPU")
    with pytest.raises(InputError, match=r"is_causal=True was asked of vitzoo's kernel in torch's SDPA.*restore_flash"):
        torch.ops.aten._scaled_dot_product_flash_attention(q, q, q, 0.0, True)
    active.remove()


@pytest.mark.gpu
def test_torchs_sdpa_runs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    calls = []

    def counted(*tensors: Tensor, **options: Any) -> Any:
        calls.append(options)
        return kernel(*tensors, **options)

    kernel = vitzoo_kernels.attention
    monkeypatch.setattr(vitzoo_kernels, "attention", counted, raising=False)
    qkv = torch.randn(2, 197, 3, 6, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def run() -> list[Tensor]:
        q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
        with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
            out = scaled_dot_product_attention(q, k, v)
        return [out, *torch.autograd.grad(out.square().sum(), qkv)]

    want = run()
    assert not calls
    attention.activate_flash_attention_impl(sdpa.register())
    try:
        found = run()
    finally:
        attention.restore_flash_attention_impl()
    assert len(calls) == 1
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    run()
    assert len(calls) == 1
