"""The kit catches an attention backend that is wrong in one way, and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from vitzoo_kernels import attention_reference
from wrong import failed, fault, outcomes_of

import vitzoo
from vitzoo.attention.caps import AttentionCaps, AttentionProblem, Reason
from vitzoo.registry import Registry
from vitzoo.testing import Unavailable, check_attention, low_precision_attention

PLAIN = AttentionCaps(devices=("cpu",), dtypes=("float32",), head_dims=(32,), backward=True)
ALL = replace(PLAIN, cross=True, bias=True, bias_grad=True, key_mask=True, dropout=True, lse=True)


def right(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    """Attend as the definition does."""
    return attention_reference(q, k, v, **options)


def without(*names: str, **fixed: Any) -> Callable[..., Any]:
    """Return a backend that ignores those options, and passes others that were not asked for."""

    def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        return right(q, k, v, **{name: value for name, value in options.items() if name not in names}, **fixed)

    return attend


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **options: Any) -> Any:
    return right(q, k, v, scale=1.0 if scale is None else scale, **options)


def forgetful_when_packed(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k, v, **options)


forgetful_when_packed.packed = lambda qkv, **options: right(*qkv.unbind(2))  # type: ignore[attr-defined]


def inverted_mask(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, **options: Any) -> Any:
    return right(q, k, v, key_mask=None if key_mask is None else ~key_mask, **options)


def masked_rows_are_means(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, **options: Any) -> Any:
    if key_mask is not None:
        key_mask = key_mask | ~key_mask.any(dim=1, keepdim=True)
    return right(q, k, v, key_mask=key_mask, **options)


def leaking_mask(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None, **options: Any) -> Any:
    bias = None if key_mask is None else torch.zeros(key_mask.shape).masked_fill(~key_mask, -8.0)[:, None, None]
    return right(q, k, v, bias=bias, **options)


def constant_on_the_cpu(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k, v, **options) * torch.ones(q.shape[-1], device="cpu")


class ScaledKeyTail(torch.autograd.Function):
    """Passes k on, and spoils the last row of its gradient."""

    @staticmethod
    def forward(ctx: Any, k: Tensor) -> Tensor:
        return k.clone()

    @staticmethod
    def backward(ctx: Any, dk: Tensor) -> Tensor:
        dk = dk.clone()
        dk[:, -1] *= 0.5
        return dk


def wrong_dk_tail(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, ScaledKeyTail.apply(k), v, **options)


def no_gradient_to_v(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return 0.5 * right(q, k, v, **options) + 0.5 * right(q, k, v.detach(), **options)


def gradient_of_its_own_to_q(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k, v, **options) + 1e-3 * (q - q.detach())


def partly_written(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    out = torch.empty_like(q)
    whole = q.shape[1] // 16 * 16
    out[:, :whole] = right(q, k, v, **options)[:, :whole]
    return out


def transposed(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k, v, **options).transpose(1, 2).contiguous().transpose(1, 2)


def scaling_in_place(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    with torch.no_grad():
        q.mul_(0.999)
    return right(q, k, v, **options)


def without_maximum(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(q.shape[-1] ** -0.5 if scale is None else scale).exp()
    return torch.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdim=True), v).contiguous()


def first_stride_of_q(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k.as_strided(k.shape, k.new_empty(k.shape).stride()), v, **options)


def unscaled_dropout(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float = 0.0, **options: Any) -> Any:
    return right(q, k, v, dropout_p=dropout_p, **options) * (1 - dropout_p)


def half_dropout(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float = 0.0, **options: Any) -> Any:
    return right(q, k, v, dropout_p=dropout_p / 2, **options)


def seeded_dropout(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return right(q, k, v, **options)


def dropout_of_rows(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float = 0.0, **options: Any) -> Any:
    keep = (torch.rand(1, k.shape[1], 1, 1) >= dropout_p) / (1 - dropout_p)
    return right(q, k, v * keep, **options)


def other_dropout_backward(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float = 0.0, **options: Any) -> Any:
    out = right(q, k, v, dropout_p=dropout_p, **options)
    again = right(q, k, v, dropout_p=dropout_p, **options)
    return out.detach() + again - again.detach() if dropout_p else out


def wrong_lse(q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
    out, lse = right(q, k, v, return_lse=True, **options)
    return (out, lse / 0.6931471805599453) if return_lse else out


def deciding_by_value(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    if q.abs().max() > 100:
        q = q.clamp(-100, 100)
    return right(q, k, v, **options)


def scaling_with_dropout(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float | None = None, **options: Any) -> Any:
    return right(q, k, v, **options) if dropout_p is None else 1.001 * right(q, k, v, **options)


def first_keys_only(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k[:, : q.shape[1]], v[:, : q.shape[1]], **options)


def finite_bias(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, **options: Any) -> Any:
    return right(q, k, v, bias=None if bias is None else bias.clamp(min=-1e4), **options)


def bias_of_the_first_image(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, **options: Any) -> Any:
    return right(q, k, v, bias=bias if bias is None or bias.ndim < 4 else bias[:1], **options)


def detached_bias(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, **options: Any) -> Any:
    return right(q, k, v, bias=None if bias is None else bias.detach(), **options)


def bias_over_mask(q: Tensor, k: Tensor, v: Tensor, *, bias: Any = None, key_mask: Any = None, **options: Any) -> Any:
    return right(q, k, v, bias=bias, key_mask=key_mask if bias is None else None, **options)


def wrong_if_tied(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    tied = torch.equal(k, k[:, :1].expand_as(k))
    return right(q, k, v * 1.001 if tied else v, **options)


def wide_under_autocast(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    out = right(q, k, v, **options)
    return out.double() if torch.is_autocast_enabled("cpu") else out


def contiguous_alone(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    if not q.is_contiguous():
        raise ValueError("q is not contiguous")
    return right(q, k, v, **options)


def wrong_at_72(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    return right(q, k, v, **options) * (1.1 if q.shape[-1] == 72 else 1.0)


@torch.library.custom_op("vitzoo_tests::attend", mutates_args=())
def operator(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return attention_reference(q, k, v, scale=scale)


@operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])


def wrong_fake(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    return operator(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)


@pytest.mark.parametrize(
    ("attend", "caps", "check", "words"),
    [
        (
            lambda q, k, v, **o: right(q, k, v, **o) * (1 + 1e-6),
            PLAIN,
            "numbers_float32_n1",
            "out is the one key's value",
        ),
        (no_gradient_to_v, PLAIN, "numbers_float32_n1", "with one key dv is the sum of dout"),
        (gradient_of_its_own_to_q, PLAIN, "numbers_float32_n1", "with one key no gradient of out reaches q and k: dq"),
        (scaling_with_dropout, ALL, "dropout_off", "dropout_p=0.0 changes the output"),
        (first_keys_only, replace(PLAIN, cross=True), "cross", "over the budget"),
        (finite_bias, ALL, "bias_hides", "a query whose bias is -inf for every key must give zeros"),
        (bias_of_the_first_image, ALL, "bias_full", "the bias of the first image is used for all"),
        (bias_of_the_first_image, ALL, "bias_keys", "the bias of the first image is used for all"),
        (detached_bias, ALL, "bias_heads", "no gradient reaches bias"),
        (bias_over_mask, ALL, "bias_and_key_mask", "over the budget"),
        (wrong_if_tied, PLAIN, "equal_rows", "over the budget"),
        (
            wide_under_autocast,
            replace(PLAIN, dtypes=("float32", "bfloat16")),
            "autocast",
            "under bfloat16 autocast float32 inputs gave torch.float64",
        ),
        (
            constant_on_the_cpu,
            replace(PLAIN, devices=("cpu", "meta")),
            "on_meta",
            "Tensor on device cpu is not on the expected device meta",
        ),
        (contiguous_alone, PLAIN, "in_a_model", "ValueError: q is not contiguous"),
        (wrong_at_72, replace(PLAIN, head_dims=tuple(range(16, 81, 8))), "head_dims_float32", "with head_dim 72"),
        (
            wrong_fake,
            replace(PLAIN, backward=False),
            "opcheck",
            "torch.library.opcheck finds fault with vitzoo_tests.attend",
        ),
        (wrong_scale, PLAIN, "scale", "the scores are not multiplied with a scale (scale=None is head_dim ** -0.5)"),
        (without("scale"), PLAIN, "scale", "scale=0.7 is ignored"),
        (forgetful_when_packed, PLAIN, "packed", "out of packed(qkv) is not that of the function itself"),
        (without("bias"), ALL, "bias_full", "the bias is ignored: it is added to the scaled scores"),
        (without("key_mask"), ALL, "key_mask", "the key mask is ignored"),
        (inverted_mask, ALL, "key_mask", "the key mask is read the wrong way round: True is where attention may look"),
        (masked_rows_are_means, ALL, "key_mask", "an image whose keys are all masked must give zeros"),
        (leaking_mask, replace(PLAIN, key_mask=True), "one_visible_key", "every query must get its value"),
        (without("dropout_p"), ALL, "dropout", "dropout_p=0.25 dropped none of 8192 weights: the argument is ignored"),
        (half_dropout, ALL, "dropout", "expected 25% within"),
        (unscaled_dropout, ALL, "dropout", "must grow by 1 / (1 - p), to 0.0833; they are 0.0625"),
        (seeded_dropout, ALL, "dropout", "two calls drop the same weights"),
        (dropout_of_rows, ALL, "dropout", "every query of every head of every image needs its own"),
        (other_dropout_backward, replace(ALL, lse=False), "dropout_gradients", "over the budget"),
        (wrong_dk_tail, PLAIN, "numbers_float32_n37", "dk (3, 37, 2, 32) torch.float32: over the budget"),
        (no_gradient_to_v, PLAIN, "numbers_float32_n31", "dv (1, 31, 2, 32) torch.float32: over the budget"),
        (partly_written, PLAIN, "writes_all", "they were never written, the first at (0, 32, 0, 0)"),
        (transposed, PLAIN, "output", "it must be contiguous, to be viewed as (B, N_q, H * D)"),
        (
            lambda q, k, v, **options: right(q, k, v, **options).double(),
            PLAIN,
            "output",
            "out is torch.float64, expected",
        ),
        (scaling_in_place, PLAIN, "inputs_unchanged", "the backend wrote into its inputs q"),
        (without_maximum, PLAIN, "large_logits", "elements are not finite where the truth is"),
        (first_stride_of_q, PLAIN, "strided", "with inputs that are views of packed (B, N, 3, H, D) memory"),
        (wrong_lse, replace(PLAIN, lse=True), "numbers_float32_n2", "lse (3, 2, 2) torch.float32: over the budget"),
        (right, replace(PLAIN, varlen=True), "varlen", "unexpected keyword argument 'cu_seqlens_q'"),
        (
            without("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"),
            replace(PLAIN, varlen=True),
            "varlen",
            "cu_seqlens are ignored: sequences look at each other",
        ),
        (
            lambda q, k, v, **options: right(q, k, v, **options) * (1 + 1e-6 * torch.rand(())),
            replace(PLAIN, deterministic=True),
            "repeatable",
            "caps declare deterministic=True, but",
        ),
        (deciding_by_value, PLAIN, "compiles", "Data-dependent"),
        (right, replace(PLAIN, dtypes=("single",)), "caps", "caps.dtypes holds ['single']; dtypes are named float32"),
        (right, replace(PLAIN, bias_grad=True), "caps", "caps declare bias_grad without bias"),
        (
            right,
            None,
            "caps",
            "a backend is registered with caps=AttentionCaps(...), which say what it can do; got None",
        ),
        (right, AttentionCaps(), "caps", "caps declare no devices: the backend can never run"),
    ],
)
def test_a_backend_that_is_wrong_in_one_way_is_caught(
    registry: Registry, attend: Any, caps: AttentionCaps | None, check: str, words: str
) -> None:
    meta = {} if caps is None else {"caps": caps}
    assert words in fault("attention", attend, check, **meta)


# Orders of summing whose roundings exceeded twice those of eight others, where there are few queries.
@pytest.mark.parametrize("order", [101, 115, 208])
def test_roundings_of_honest_sums_are_no_fault(registry: Registry, order: int) -> None:
    def term_by_term(q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
        out, lse = low_precision_attention(q, k, v, order=order, **options)
        return (out.contiguous(), lse) if return_lse else out.contiguous()

    caps = replace(ALL, head_dims=(16, 32), dropout=False)
    checks = ("cross", "numbers_*", "bias_and_key_mask", "bias_full", "bias_heads")
    outcomes = outcomes_of("attention", term_by_term, *checks, caps=caps)
    assert len(outcomes) > 10
    assert failed(outcomes) == {}


def test_what_a_machine_cannot_run_is_skipped_with_what_is_missing(registry: Registry) -> None:
    outcomes = outcomes_of("attention", right, "on_*", "opcheck", caps=replace(PLAIN, devices=("cpu", "xpu")))
    assert {name: (outcome.state, outcome.detail) for name, outcome in outcomes.items()} == {
        "on_cpu": ("passed", ""),
        "on_xpu": ("skipped", "needs a device of type 'xpu': nothing was checked there"),
        "opcheck": ("skipped", "it calls no operator of torch.library's"),
    }


class Careless(AttentionCaps):
    """Declares, but refuses nothing."""

    def reasons_against(self, problem: AttentionProblem) -> tuple[Reason, ...]:
        return ()


def test_a_declared_no_that_is_not_refused_is_caught(registry: Registry) -> None:
    caps = Careless(devices=("cpu",), dtypes=("float32",), head_dims=(32,))
    words = failed(outcomes_of("attention", right, "refuses_*", caps=caps))
    assert set(words) == {
        f"refuses_{what}"
        for what in (
            *("dtype", "device", "head_dim", "cross", "needs_grad", "bias", "bias_grad"),
            *("key_mask", "dropout", "varlen", "lse"),
        )
    }
    expected = "the caps do not declare dropout, but give no reason against a call with dropout=True"
    assert words["refuses_dropout"] == expected


def test_check_attention_raises_on_the_first_failure_and_names_the_check(registry: Registry) -> None:
    vitzoo.register("attention", "wrong/scale", caps=PLAIN)(wrong_scale)
    with pytest.raises(AssertionError, match="the scores are not multiplied with a scale") as caught:
        check_attention("wrong/scale")
    assert caught.value.__notes__ == ["on cpu", "in the check attention/scale:scale"]


def test_check_attention_passes_what_is_right_and_says_when_nothing_could_run(registry: Registry) -> None:
    narrow = AttentionCaps(devices=("cpu",), dtypes=("float32",), head_dims=(16,))
    vitzoo.register("attention", "fine/it", caps=narrow)(lambda q, k, v, scale=None: right(q, k, v, scale=scale))
    check_attention("fine/it")
    elsewhere = replace(PLAIN, devices=("xpu",))
    vitzoo.register("attention", "fine/away", caps=elsewhere)(right)
    with pytest.raises(
        Unavailable, match="nothing that 'fine/away' computes can be checked here: needs a device of type"
    ):
        check_attention("fine/away")
