"""The choice of a backend: strict, ordered, auto; its reasons; and looking into what it computes."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from families import FAMILIES, SMALL, small
from torch import Tensor, nn
from vitzoo_kernels import attention_reference

import vitzoo
from vitzoo.attention.caps import AttentionCaps, AttentionProblem
from vitzoo.attention.select import Attend, backend
from vitzoo.errors import BackendUnsupported, ConfigError, InputError, UnknownNameError
from vitzoo.registry import Registry

EVERYTHING = AttentionCaps(
    devices=("cpu",),
    dtypes=("float32",),
    head_dims=None,
    backward=True,
    cross=True,
    bias=True,
    key_mask=True,
    dropout=True,
)
PROBLEM = AttentionProblem(device="cuda", capability=(9, 0), dtype="bfloat16", head_dim=64, n_q=197, n_k=197)


def images() -> Tensor:
    """Return two random images."""
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"devices": ("cpu",)}, "device=cuda (supported: cpu)"),
        ({"devices": ()}, "device=cuda (supported: none)"),
        ({"dtypes": ("float32", "float16")}, "dtype=bfloat16 (supported: float32, float16)"),
        ({"head_dims": (32, 128)}, "head_dim=64 (supported: 32, 128)"),
        ({"min_capability": (10, 0)}, "compute capability 9.0 (supported: >= 10.0)"),
        (
            {"packages": (("a_package_nobody_has", "2.0"),)},
            "a_package_nobody_has is not installed (supported: a_package",
        ),
        ({"packages": (("torch", "99.1"),)}, f"torch {torch.__version__.split('+')[0]}"),
        ({"cross": False, "n_k": 64}, "197 queries to 64 keys (supported: as many queries as keys)"),
        ({"backward": False, "needs_grad": True}, "gradients of q, k, v (supported: inference only)"),
        ({"bias": False, "asks_bias": True}, "an additive bias (supported: no bias)"),
        ({"bias_grad": False, "asks_bias_grad": True}, "the gradient of the bias (supported: a bias without gradient)"),
        ({"key_mask": False, "asks_key_mask": True}, "a key mask (supported: no key mask)"),
        ({"dropout": False, "asks_dropout": True}, "dropout of attention weights (supported: dropout 0)"),
        ({"varlen": False, "asks_varlen": True}, "packed sequences (supported: one length a batch)"),
        ({"lse": False, "asks_lse": True}, "the log-sum-exp (supported: the output alone)"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_every_declared_no_is_a_reason_with_asked_and_supported(changes: dict[str, Any], reason: str) -> None:
    able: dict[str, Any] = {
        "devices": ("cuda",),
        "dtypes": ("bfloat16",),
        "head_dims": None,
        **dict.fromkeys(("backward", "cross", "bias", "bias_grad", "key_mask", "dropout", "varlen", "lse"), True),
    }
    asks = {name.removeprefix("asks_"): value for name, value in changes.items() if name.startswith("asks_")}
    asks |= {name: changes[name] for name in ("n_k", "needs_grad") if name in changes}
    problem = AttentionProblem(**{**PROBLEM.__dict__, **asks})
    assert AttentionCaps(**able).reasons_against(problem) == ()
    declared = {name: value for name, value in changes.items() if name in AttentionCaps.__dataclass_fields__}
    reasons = AttentionCaps(**{**able, **declared}).reasons_against(problem)
    assert len(reasons) == 1
    assert reason in str(reasons[0])


def test_poorest_defaults_can_do_nothing_and_all_reasons_are_given() -> None:
    assert len(AttentionCaps().reasons_against(PROBLEM)) == 3


def test_a_strict_choice_that_can_never_run_raises_at_create(registry: Registry) -> None:
    caps = AttentionCaps(head_dims=(32,), packages=(("a_package_nobody_has", "2.0"),), note="Ask the lab.")
    vitzoo.register("attention", "lab/absent", caps=caps)(lambda q, k, v: q)
    with pytest.raises(BackendUnsupported) as caught:
        vitzoo.create("vit_tiny", attn="lab/absent", **SMALL)
    assert "attn='lab/absent' can never run here:\n  lab/absent: a_package_nobody_has is not installed" in str(
        caught.value
    )
    assert "Ask the lab." in str(caught.value)

    vitzoo.register("attention", "lab/wide", caps=AttentionCaps(devices=("cpu",), head_dims=(128,)))(lambda q, k, v: q)
    with pytest.raises(
        BackendUnsupported, match=r"can never run this model:\n  lab/wide: head_dim=32 \(supported: 128\)"
    ):
        vitzoo.create("vit_tiny", attn="lab/wide", **SMALL)


def test_triton_on_a_cpu_raises_at_the_call_with_all_reasons() -> None:
    model = vitzoo.create("vit_tiny", attn="triton", **{**SMALL, "attn_drop_rate": 0.1}).train().double()
    with pytest.raises(BackendUnsupported) as caught:
        model(images().double())
    assert str(caught.value) == (
        "attn='triton' cannot run this call:\n"
        "  triton: device=cpu (supported: cuda)\n"
        "  triton: dtype=float64 (supported: float16, bfloat16, float32)\n"
        "  To run the kernel slowly on a CPU, set TRITON_INTERPRET=1 before Python starts.\n"
        "  who could: reference, sdpa; pass attn= or call set_attention"
    )


@pytest.mark.interpreter
def test_a_kernel_that_is_interpreted_does_not_ask_for_it() -> None:
    with pytest.raises(BackendUnsupported, match="dtype=float64") as caught:
        small("vit", attn="triton").double()(images().double())
    assert "TRITON_INTERPRET" not in str(caught.value)


@pytest.mark.parametrize("attn", [None, [], [1]])
def test_what_is_no_choice_of_a_backend_raises_with_all_names(attn: Any) -> None:
    with pytest.raises(ConfigError, match=r"neither a backend's name nor .* \(possible: 'auto', .*'sdpa'"):
        vitzoo.create("vit_tiny", attn=attn, **SMALL)


def test_an_unknown_backend_raises_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown attention 'tritn'. Did you mean 'triton'"):
        vitzoo.create("vit_tiny", attn="tritn", **SMALL)
    with pytest.raises(ValueError, match="is neither a backend's name nor a sequence of names"):
        Attend(())


@pytest.mark.parametrize(
    "declared",
    [
        {"devices": "cuda"},
        {"dtypes": (torch.float32,)},
        {"head_dims": 64},
        {"packages": ("triton", "3.6")},
        {"packages": (("triton",),)},
        {"min_capability": (8,)},
        {"min_capability": 8},
    ],
    ids=str,
)
def test_caps_of_another_type_are_refused_where_they_are_written(declared: dict[str, Any]) -> None:
    (name,) = declared
    with pytest.raises(TypeError, match=rf"AttentionCaps\({name}=.* is not like {name}=\("):
        AttentionCaps(**declared)


def counting(registry: Registry, name: str, caps: AttentionCaps) -> list[dict[str, Any]]:
    """Register a backend that runs the reference and keeps the options of every call."""
    calls: list[dict[str, Any]] = []
    reference = backend("reference").function

    def run(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append({"n_q": q.shape[1], "n_k": k.shape[1], **options})
        return reference(q, k, v, **options)

    vitzoo.register("attention", name, caps=caps)(run)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_honours_the_choice_in_every_attention_layer(registry: Registry, family: str) -> None:
    calls = counting(registry, "lab/count", EVERYTHING)
    model = small(family)
    expected = model(images())
    vitzoo.set_attention(model, "lab/count")
    torch.testing.assert_close(model(images()), expected)
    layers = [module for module in model.modules() if hasattr(module, "attend")]
    assert len(calls) == len(layers) == (3 if family == "siglip" else 2)


def test_a_pool_made_later_attends_as_the_model_does(registry: Registry) -> None:
    calls = counting(registry, "lab/count", EVERYTHING)
    model = small("vit")
    vitzoo.set_attention(model, "lab/count")
    model.reset_classifier(3, "map")
    model(images())
    assert [call["n_q"] for call in calls] == [17, 17, 1]


def test_a_backend_gets_q_k_and_v_in_one_tensor_where_a_layer_has_them_so(registry: Registry) -> None:
    shapes = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return attention_reference(q, k, v, **options)

    def packed(qkv: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(qkv.shape))
        return attend(*qkv.unbind(2), **options)

    attend.packed = packed  # type: ignore[attr-defined]
    vitzoo.register("attention", "lab/packed", caps=EVERYTHING)(attend)
    model = small("vit", attn="lab/packed")
    torch.testing.assert_close(model(images()), small("vit", attn="reference")(images()), rtol=0, atol=0)
    assert shapes == [(2, 17, 3, 2, 32)] * len(model.blocks)
    assert "lab/packed ran 17 queries x 17 keys" in str(vitzoo.explain_attention(model, images()))
    assert len(shapes) == 2 * len(model.blocks)
    # A rope turns q and k after the projection, so they are no slices any more.
    small("rope_mixed", attn="lab/packed")(images())
    assert len(shapes) == 2 * len(model.blocks)


@pytest.mark.parametrize("family", ["vit", "dinov3"])
def test_an_empty_batch_needs_no_backend_and_has_a_gradient(registry: Registry, family: str) -> None:
    calls = counting(registry, "lab/count", EVERYTHING)
    model = small(family, attn="lab/count").train()
    logits = model(images()[:0])
    assert (logits.shape, calls) == ((0, 5), [])
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())


def test_an_order_falls_through_to_the_first_that_can(registry: Registry) -> None:
    first = counting(registry, "lab/first", AttentionCaps(devices=("cuda",), dtypes=("float32",), head_dims=None))
    second = counting(registry, "lab/second", EVERYTHING)
    model = vitzoo.create("vit_tiny", attn=("lab/first", "lab/second", "auto"), **SMALL)
    model(images())
    assert (len(first), len(second)) == (0, 2)
    # float64 is beyond both: auto's turn.
    model.double()(images().double())
    assert (len(first), len(second)) == (0, 2)


def test_an_order_that_ends_without_auto_falls_to_nobody(registry: Registry) -> None:
    counting(registry, "lab/first", AttentionCaps(devices=("cuda",), dtypes=("float32",), head_dims=None))
    model = vitzoo.create("vit_tiny", attn=("lab/first", "triton"), **SMALL)
    with pytest.raises(BackendUnsupported, match=r"lab/first: device=cpu (.|\n)*triton: device=cpu"):
        model(images())


def test_installing_a_plugin_never_changes_what_auto_does(registry: Registry) -> None:
    calls = counting(registry, "lab/greedy", EVERYTHING)
    vitzoo.create("vit_tiny", attn="auto", **SMALL)(images())
    assert calls == []


def test_a_choice_that_fails_leaves_the_model_as_it_was(registry: Registry) -> None:
    vitzoo.register("attention", "lab/wide", caps=AttentionCaps(devices=("cpu",), head_dims=(128,)))(lambda q, k, v: q)
    model = small("vit")
    vitzoo.set_attention(model, "reference")
    for bad in ("lab/wide", "nothing"):
        with pytest.raises(vitzoo.VitzooError):
            vitzoo.set_attention(model, bad)
        assert model.builder.attend.choice == "reference"
    with pytest.raises(InputError, match="Linear has no attention layer that vitzoo can look into or switch"):
        vitzoo.set_attention(nn.Linear(1, 1), "sdpa")


def test_a_backend_gets_all_of_the_problem(registry: Registry) -> None:
    calls = counting(registry, "lab/count", EVERYTHING)
    model = small("vit", attn_drop_rate=0.25, attn="lab/count").train()
    keys = torch.ones(2, 1, 1, 17, dtype=torch.bool)
    model(images(), attn_mask=keys)
    assert {key for call in calls for key in call} == {"n_q", "n_k", "key_mask", "dropout_p"}
    assert {call["dropout_p"] for call in calls} == {0.25}
    calls.clear()
    model.eval()(images(), attn_mask=torch.zeros(17, 17))
    assert {key for call in calls for key in call} == {"n_q", "n_k", "bias"}


@pytest.mark.parametrize("name", ["reference", "sdpa"])
def test_a_row_whose_keys_are_all_masked_is_zero_with_zero_gradient(name: str) -> None:
    q, k, v = (torch.randn(2, 5, 2, 16, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    out = Attend(name)(q, k, v, key_mask=mask)
    assert torch.equal(out[1], torch.zeros(5, 2, 16))
    out.square().sum().backward()
    for tensor in (q, k, v):
        assert tensor.grad.isfinite().all()
        assert tensor.grad[1].abs().max() == 0


def test_bias_and_key_mask_together_agree_between_backends() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 7, 3, 16, dtype=torch.float64) for _ in range(3))
    options = {
        "bias": torch.randn(1, 3, 7, 7, dtype=torch.float64),
        "key_mask": torch.rand(2, 7) > 0.3,
        "scale": 0.5,
    }
    torch.testing.assert_close(Attend("sdpa")(q, k, v, **options), Attend("reference")(q, k, v, **options))


def test_outputs_are_contiguous_for_strided_inputs() -> None:
    packed = torch.randn(2, 9, 3, 4, 16)
    for name in ("reference", "sdpa"):
        out = Attend(name)(*packed.unbind(2))
        assert out.shape == (2, 9, 4, 16)
        assert out.is_contiguous()


@pytest.mark.parametrize("family", ["vit", "dinov3", "sbb_parallel", "rope_mixed", "eva02"])
def test_attention_maps_are_the_weights_that_made_the_output(family: str) -> None:
    model = small(family)
    values: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "attend")}
    outputs: dict[str, Tensor] = {}
    for name, layer in layers.items():
        inner = layer.attend

        class Spy(Attend):
            def __init__(self, name: str, inner: Attend) -> None:
                self.name, self.inner = name, inner

            def __call__(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
                values[self.name] = v
                outputs[self.name] = self.inner(q, k, v, **options)
                return outputs[self.name]

            def packed(self, qkv: Tensor, **options: Any) -> Tensor:
                return self(*qkv.unbind(2), **options)

        layer.attend = Spy(name, inner)
    maps = vitzoo.attention_maps(model, images(), queries="all")
    assert list(maps) == list(layers)
    for name, weights in maps.items():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", weights, values[name]), outputs[name])


def test_attention_maps_choose_layers_queries_and_heads() -> None:
    model = small("siglip", depth=4).train()
    model.patch_embed.eval()
    full = vitzoo.attention_maps(model, images(), queries="patches")
    assert list(full) == [f"blocks.{index}.attn" for index in range(4)]
    chosen = vitzoo.attention_maps(model, images(), layers=[-1, "attn_pool"], queries=[0, -1], heads=[1])
    assert list(chosen) == ["blocks.3.attn", "attn_pool"]
    torch.testing.assert_close(chosen["blocks.3.attn"], full["blocks.3.attn"][:, [1]][:, :, [0, 15]])
    assert chosen["attn_pool"].shape == (2, 1, 1, 16)
    assert [name for name, layer in model.named_modules() if not layer.training] == ["patch_embed", "patch_embed.proj"]
    assert vitzoo.attention_maps(small("vit"), images())["blocks.0.attn"].shape == (2, 2, 1, 17)


def test_attention_maps_of_a_wrapped_model_know_its_prefix_tokens() -> None:
    model = small("dinov3")
    for queries in ("cls", "patches"):
        plain = vitzoo.attention_maps(model, images(), queries=queries)
        for name, rows in vitzoo.attention_maps(nn.DataParallel(model), images(), queries=queries).items():
            assert torch.equal(rows, plain[name.removeprefix("module.")])


class InAnotherThread(nn.Module):
    """Runs a model as nn.DataParallel runs its copies."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.model, x).result()


def test_attention_maps_hold_what_their_own_thread_ran() -> None:
    model = small("vit")
    plain = vitzoo.attention_maps(model, images())
    meanwhile = InAnotherThread(model)
    model.patch_embed.register_forward_hook(
        lambda *_: meanwhile(images()[:1]) if threading.current_thread() is threading.main_thread() else None
    )
    for name, rows in vitzoo.attention_maps(model, images()).items():
        assert torch.equal(rows, plain[name])
    with pytest.raises(InputError, match="ran none of the layers asked for in this thread"):
        vitzoo.attention_maps(InAnotherThread(model), images(), queries="all")


def test_two_threads_that_look_into_a_model_leave_it_as_it_was() -> None:
    model = small("vit")
    first_in, second_in = threading.Event(), threading.Event()

    def first_in_first_out(*_: Any) -> None:
        if first_in.is_set():
            second_in.set()
            first.result(timeout=60)
        first_in.set()
        second_in.wait(timeout=0.5)

    model.patch_embed.register_forward_hook(first_in_first_out)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(vitzoo.attention_maps, model, images())
        first_in.wait(timeout=60)
        pool.submit(vitzoo.attention_maps, model, images()).result(timeout=60)
    assert all(type(block.attn.attend) is Attend for block in model.blocks)


@pytest.mark.parametrize(
    ("family", "arguments", "words"),
    [
        ("siglip", {}, "queries='cls' needs a class token, which this model has not; use queries='patches' or numbers"),
        ("vit", {"layers": [2]}, "layer 2 is out of range (possible: -2 to 1)"),
        (
            "vit",
            {"layers": ["blocks.0.att"]},
            "no attention layer is named 'blocks.0.att'. Did you mean 'blocks.0.attn'",
        ),
        ("vit", {"queries": [17]}, "queries 17 is out of range (possible: -17 to 16)"),
        ("vit", {"heads": [-3]}, "heads -3 is out of range (possible: -2 to 1)"),
        ("vit", {"heads": "first"}, "heads='first' is neither 'all' nor a sequence of numbers"),
        ("vit", {"heads": 0}, "heads=0 is neither 'all' nor a sequence of numbers, such as [0]"),
        ("vit", {"queries": 3}, "queries=3 is neither 'cls', 'patches', 'all' nor a sequence of numbers"),
        ("vit", {"layers": 0}, "layers=0 is neither 'all' nor a sequence of block numbers and names, such as [0]"),
    ],
)
def test_maps_that_do_not_exist(family: str, arguments: dict[str, Any], words: str) -> None:
    model = small(family)
    with pytest.raises(InputError) as caught:
        vitzoo.attention_maps(model, images(), **arguments)
    assert words in str(caught.value)
    assert all(type(module.attend) is Attend for module in model.modules() if hasattr(module, "attend"))


def test_an_explanation_says_what_ran_and_why_not_the_others() -> None:
    model = small("siglip")
    lines = str(vitzoo.explain_attention(model, images())).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        "blocks.0.attn .. blocks.1.attn (2 layers): sdpa ran 16 queries x 16 keys, head_dim 32, float32 on cpu. Others: "
    )
    assert "reference: able, not chosen" in lines[0]
    assert "triton: device=cpu (supported: cuda)" in lines[0]
    assert lines[1].startswith("attn_pool: sdpa ran 1 queries x 16 keys")
    training = str(vitzoo.explain_attention(small("vit").double().train(), images().double()))
    assert "with gradients" in training
    assert re.search(r"triton: device=cpu \(supported: cuda\); dtype=float64", training)
