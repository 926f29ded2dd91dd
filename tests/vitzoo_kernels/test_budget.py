"""The numeric budget must pass honest computations and fail wrong ones: outputs and gradients, in each dtype."""

import pytest
import torch
import torch.nn.functional as F
from vitzoo_kernels import attention_reference

from vitzoo.testing import (
    assert_within_budget,
    check_attention_numbers,
    exact_attention,
    low_precision_attention,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
RESULTS = ["out", "lse", "dq", "dk", "dv"]


def results(function, inputs, dtype, **arguments):
    """Return out, lse, dq, dk and dv by name; all (2, 4, 37, ...) but for the order of dimensions."""
    q, k, v, dout, dlse = (x.to(dtype) for x in inputs)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out, lse = function(*leaves, **arguments)
    found = (out, lse, *torch.autograd.grad((out, lse), leaves, (dout, dlse.to(lse.dtype))))
    return dict(zip(RESULTS, (x.detach() for x in found), strict=True))


def reference(q, k, v, **arguments):
    return attention_reference(q, k, v, return_lse=True, **arguments)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def case(request):
    """Return one attention problem in one dtype: its honest results, the truth, and the yardsticks."""
    dtype = request.param
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 37, 4, 32, generator=generator).to(dtype) for _ in range(4)]
    inputs.append(torch.randn(2, 4, 37, generator=generator).to(dtype))
    honest = results(reference, inputs, dtype)
    truth = results(exact_attention, inputs, torch.float64)
    yardsticks = [results(low_precision_attention, inputs, dtype, order=i) for i in range(8)]
    missing_scale = results(reference, inputs, dtype, scale=1.0)
    return honest, truth, yardsticks, missing_scale


def judge(case, name, actual):
    honest, truth, yardsticks, _ = case
    assert_within_budget(actual, truth[name], [y[name] for y in yardsticks], name=name, dtype=honest[name].dtype)


@pytest.mark.parametrize("name", RESULTS)
def test_an_honest_computation_passes(case, name):
    judge(case, name, case[0][name])


def one_wrong_row(x):
    """Take another query's numbers, as a kernel does that is wrong in its last tile."""
    x = x.clone()
    if x.ndim == 4:
        x[1, 36, 3] = x[1, 35, 3]
    else:
        x[1, 3, 36] = x[1, 3, 35]
    return x


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize(
    "damage", [torch.zeros_like, torch.neg, one_wrong_row, None], ids=["zeros", "negated", "one_row", "no_scale"]
)
def test_a_wrong_result_fails(case, name, damage):
    # The gradient with respect to v and all else depend on the scale through the weights.
    wrong = case[3][name] if damage is None else damage(case[0][name])
    with pytest.raises(AssertionError, match=rf"{name} .*over the budget in (max|mean)"):
        judge(case, name, wrong)


def test_a_slight_error_everywhere_fails_in_the_mean():
    truth = torch.linspace(1, 2, 1000, dtype=torch.float64)
    rounded = truth.to(torch.float16)
    # The largest error of the yardstick hides a drift of every element; its mean does not.
    yardstick = rounded.clone()
    yardstick[0] += 0.5
    assert_within_budget(rounded, truth, [yardstick])
    with pytest.raises(AssertionError, match="over the budget in mean\n"):
        assert_within_budget((truth * 1.01).to(torch.float16), truth, [yardstick])


def test_one_rounding_is_allowed_to_a_yardstick_without_error():
    yardstick = torch.linspace(1, 2, 1000)
    truth = yardstick.double()
    rounded = yardstick.to(torch.bfloat16)
    assert not torch.equal(rounded.double(), truth)
    assert_within_budget(rounded, truth, [yardstick], dtype=torch.bfloat16)
    cut_off = (yardstick.view(torch.int32) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)
    with pytest.raises(AssertionError, match="over the budget in max"):
        assert_within_budget(cut_off, truth, [yardstick], dtype=torch.bfloat16)


def test_the_message_holds_all_numbers():
    truth = torch.tensor([1.0, -4.0], dtype=torch.float64)
    yardstick = [torch.tensor([1.0, -4.25]), torch.tensor([1.5, -4.0])]
    with pytest.raises(AssertionError) as caught:
        assert_within_budget(torch.tensor([1.0, -6.0]), truth, yardstick, name="dk")
    words = str(caught.value)
    assert words.splitlines() == [
        "dk (2,) torch.float32: over the budget in max and mean",
        "  max:  2.000e+00, beyond the band 2.000e+00; allowed 1.000e+00 (low precision 5.000e-01)",
        "  mean: 1.000e+00; allowed 5.000e-01 (low precision 2.500e-01, band 1.490e-07)",
        "  worst at (1,): got -6, truth -4",
    ]


TRUTH = torch.tensor([1.0, 2.0], dtype=torch.float64)
INFINITE = torch.tensor([1.0, -torch.inf], dtype=torch.float64)
GOOD = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("actual", "truth", "words"),
    [
        (GOOD[:1], TRUTH, r"out: shape \(1,\), expected \(2,\)"),
        (GOOD.half(), TRUTH, "out: dtype torch.float16, expected torch.float32"),
        (torch.tensor([1.0, torch.nan]), TRUTH, "out: 1 of 2 elements are not finite where the truth is"),
        (torch.tensor([torch.inf, 2.0]), TRUTH, "out: 1 of 2 elements are not finite where the truth is"),
        (torch.tensor([1.0, torch.inf]), INFINITE, "out: 1 of 1 elements are not the infinity that the truth is"),
    ],
)
def test_form_is_judged_before_numbers(actual, truth, words):
    with pytest.raises(AssertionError, match=words):
        assert_within_budget(actual, truth, [truth.float()], name="out")


@pytest.mark.parametrize(
    ("truth", "low_precision", "words"),
    [
        (GOOD, GOOD, "out: the truth is torch.float32; compute it in torch.float64"),
        (TRUTH, GOOD[:1], r"out: the truth is \(2,\), low_precision \[\(1,\)\]"),
        (TRUTH * torch.nan, GOOD, "out: the truth holds NaN"),
        (TRUTH, GOOD * torch.inf, "out: low_precision overflows torch.float32; choose smaller inputs"),
        (TRUTH, GOOD * 3, "out: zeros would pass, with truth up to 2.000e.00 and low_precision wrong by up to 4.000e"),
    ],
)
def test_a_case_that_cannot_judge_is_refused(truth, low_precision, words):
    with pytest.raises(ValueError, match=words):
        assert_within_budget(GOOD, truth, [low_precision], name="out")


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_truth_and_yardstick_are_attention(random_qkv, masked):
    q, k, v = random_qkv(2, 5, 7, 3, 8)
    bias = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)) if masked else None
    key_mask = torch.ones(2, 7, dtype=torch.bool) if masked else None
    mask = None
    if masked:
        key_mask[0, 3] = key_mask[1, :] = False
        mask = bias.double().masked_fill(~key_mask[:, None, None], -torch.inf)
        mask = mask.masked_fill(~key_mask.any(1)[:, None, None, None], 0.0)
    found = []
    for function, dtype in ((exact_attention, torch.float64), (low_precision_attention, torch.float32)):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, *([bias] if masked else []))]
        out, lse = function(*leaves[:3], bias=leaves[3] if masked else None, key_mask=key_mask, scale=0.3)
        loss = out.sin().sum() + lse[lse.isfinite()].sin().sum()
        found.append((out, lse, *torch.autograd.grad(loss, leaves)))
    for truth, low in zip(*found, strict=True):
        torch.testing.assert_close(low, truth.float())
    heads_first = [x.double().transpose(1, 2) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=0.3).transpose(1, 2)
    if masked:
        expected[1] = 0.0
        assert (found[0][1][1] == -torch.inf).all()
    torch.testing.assert_close(found[0][0], expected)


def damaged(name):
    """Return an attention function of which one result alone is wrong."""

    def attend(q, k, v, *, bias, key_mask, return_lse):
        inputs = {"dq": q, "dk": k, "dv": v, "dbias": bias}
        if name in inputs:
            inputs[name] = inputs[name].view_as(inputs[name])
            inputs[name].register_hook(torch.zeros_like)
        out, lse = attention_reference(
            inputs["dq"], inputs["dk"], inputs["dv"], bias=inputs["dbias"], key_mask=key_mask, return_lse=return_lse
        )
        return (out * 2 if name == "out" else out), (lse / 0.6931471805599453 if name == "lse" else lse)

    return attend


@pytest.mark.parametrize("name", [None, *RESULTS, "dbias"])
def test_the_check_of_a_function_looks_at_every_result(random_qkv, name):
    q, k, v = random_qkv(2, 13, 9, 3, 16)
    bias = torch.randn(1, 3, 13, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    key_mask = torch.ones(2, 9, dtype=torch.bool)
    key_mask[1] = False
    problem = {"bias": bias, "key_mask": key_mask}
    if name is None:
        check_attention_numbers(damaged(None), q, k, v, **problem)
    else:
        with pytest.raises(AssertionError, match=rf"^{name} .*over the budget"):
            check_attention_numbers(damaged(name), q, k, v, **problem)


def test_an_output_without_lse_can_be_checked(random_qkv):
    q, k, v = random_qkv(2, 13, 9, 3, 16)
    check_attention_numbers(attention_reference, q, k, v, scale=0.5, with_lse=False)
    with pytest.raises(AssertionError, match=r"^out .*over the budget"):
        check_attention_numbers(lambda q, k, v, scale: attention_reference(q, k, v), q, k, v, scale=0.5, with_lse=False)


def test_a_gradient_that_vanishes_is_judged_by_its_roundings():
    generator = torch.Generator().manual_seed(0)
    truth, low = (torch.randn(64, generator=generator, dtype=torch.float64) * size for size in (1e-17, 1e-8))
    with pytest.raises(ValueError, match="zeros would pass"):
        assert_within_budget(torch.zeros(64), truth, [low.float()])
    assert_within_budget(torch.zeros(64), truth, [low.float()], vanishes=True)
    with pytest.raises(AssertionError, match="over the budget in max and mean"):
        assert_within_budget(torch.full((64,), 1e-6), truth, [low.float()], vanishes=True)


def test_float64_is_not_judged_by_float32(random_qkv):
    q, k, v = random_qkv(2, 13, 13, 2, 16, dtype=torch.float64)
    check_attention_numbers(attention_reference, q, k, v)

    def in_float32(q, k, v, **options):
        out, lse = attention_reference(q.float(), k.float(), v.float(), **options)
        return out.double(), lse.double()

    with pytest.raises(AssertionError, match=r"out \(2, 13, 2, 16\) torch.float64: over the budget"):
        check_attention_numbers(in_float32, q, k, v)


def test_a_forward_alone_is_judged_without_gradients(random_qkv):
    q, k, v = random_qkv(1, 13, 13, 2, 16)
    seen = []

    def attend(*inputs, **options):
        seen.append([x.requires_grad for x in inputs])
        return attention_reference(*inputs, **options)

    check_attention_numbers(attend, q, k, v, with_gradients=False)
    assert seen == [[False] * 3]
    with pytest.raises(AssertionError, match="out .* over the budget"):
        check_attention_numbers(lambda *x, **o: attention_reference(*x, scale=1.0, **o), q, k, v, with_gradients=False)


def test_no_image_at_all_is_within_budget(random_qkv):
    inputs = random_qkv(0, 13, 9, 2, 16)
    check_attention_numbers(attention_reference, *inputs)
    with pytest.raises(AssertionError, match=r"^out: shape \(0, 12, 2, 16\), expected \(0, 13, 2, 16\)"):
        check_attention_numbers(lambda q, k, v: q[:, 1:], *inputs, with_lse=False, with_gradients=False)
