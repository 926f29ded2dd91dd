"""The forward that gives each head a program of its own, under Triton's interpreter; elsewhere heads are too few for it."""

import pytest
import torch
from vitzoo_kernels import attention, attention_reference, dropout_mask
from vitzoo_kernels.dense import launch

from vitzoo.testing import check_attention_numbers

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("whole_heads")]

F16, F32 = torch.float16, torch.float32
NAN, INF = float("nan"), float("inf")


# Weights of masked keys are computed and dropped, and some of them overflow.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize(
    ("dtype", "num_queries", "num_keys", "head_dim", "extra"),
    [
        (F16, 197, 197, 64, {}),
        (F32, 65, 257, 72, {}),
        (F16, 33, 272, 32, {"key_mask"}),
        (F32, 70, 100, 16, {"key_mask", "bias"}),
        (F16, 40, 7, 80, {"bias"}),
        (F32, 64, 128, 48, {"dropout"}),
        (F16, 50, 145, 16, {"bias", "dropout"}),
    ],
)
def test_output_lse_and_gradients_are_within_budget(random_qkv, dtype, num_queries, num_keys, head_dim, extra):
    q, k, v = random_qkv(2, num_queries, num_keys, 2, head_dim, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    arguments, dropping = {}, {}
    if "key_mask" in extra:
        arguments["key_mask"] = torch.rand(2, num_keys, generator=generator) < 0.6
        arguments["key_mask"][1] = False
    if "bias" in extra:
        bias = torch.randn(2, num_queries, num_keys, generator=generator)
        bias[0, 3, 1:] = -INF
        arguments["bias"] = bias.to(dtype).requires_grad_()
    if "dropout" in extra:
        seed = torch.tensor([3, 4])
        dropping = {"dropout_p": 0.3, "dropout_seed": seed}
        arguments["dropout"] = (dropout_mask(seed, 0.3, (2, 2, num_queries, num_keys)), 0.3)

    def attend(*inputs, **more):
        return attention(*inputs, **more, **dropping)

    check_attention_numbers(attend, q, k, v, **arguments)


@pytest.mark.parametrize("first", range(33, 273, 60))
def test_every_length_gives_what_the_definition_gives(random_qkv, first):
    for length in range(first, first + 60):
        inputs = random_qkv(1, length, length, 1, 16)
        # Both are float32; only the order of their sums differs.
        torch.testing.assert_close(
            attention(*inputs, return_lse=True), attention_reference(*inputs, return_lse=True), msg=str(length)
        )


@pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN slice):RuntimeWarning")
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_is_not_finite_goes_where_the_reference_says(random_qkv, where, value):
    inputs = random_qkv(2, 37, 97, 2, 48)
    inputs[where][1, 36, 0, 3] = value
    found = attention(*inputs, return_lse=True)
    expected = attention_reference(*inputs, return_lse=True)
    assert not found[0].isfinite().all()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
        torch.testing.assert_close(a[b.isfinite()], b[b.isfinite()])


def test_without_its_lse_an_output_has_the_same_bits(guarded_results, random_qkv):
    tensors = random_qkv(1, 130, 70, 2, 32, dtype=F16)
    expected, _ = attention(*tensors, return_lse=True)
    assert torch.equal(attention(*tensors), expected)
    assert len(guarded_results) == 3


def test_nothing_beside_the_tensors_is_read_or_written(monkeypatch):
    num_tokens, num_heads, head_dim, margin, allocated = 67, 2, 16, 9_000, []
    strides = (80 * 160, 160, 32, 16, 1)
    memory = torch.full((4 * 80 * 160,), NAN)
    qkv = memory[7 * 160 :].as_strided((2, num_tokens, 3, num_heads, head_dim), strides)
    qkv.copy_(torch.randn(qkv.shape, generator=torch.Generator().manual_seed(3)))

    def guarded_empty_like(x):
        allocated.append(torch.full((x.numel() + 2 * margin,), NAN, dtype=x.dtype, device=x.device))
        return allocated[-1][margin:-margin].view(x.shape)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "empty_like", guarded_empty_like)
        found = attention(*qkv.unbind(2), return_lse=True)
    assert len(allocated) == 2
    for x in allocated:
        assert x[:margin].isnan().all()
        assert x[-margin:].isnan().all()
    for a, b in zip(found, attention(*(x.contiguous() for x in qkv.unbind(2)), return_lse=True), strict=True):
        assert torch.equal(a, b)
