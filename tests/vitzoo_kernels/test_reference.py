"""The definition of attention: against torch's own, by finite differences, and at its edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vitzoo_kernels import attention_reference, attention_rows

INF = float("inf")


def masks(batch, num_keys):
    """Every kind of key mask in one: the last image may look nowhere."""
    key_mask = torch.rand(batch, num_keys, generator=torch.Generator().manual_seed(1)) > 0.3
    key_mask[0, 0] = True
    key_mask[-1] = False
    return key_mask


@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("with_mask", [False, True], ids=["", "mask"])
def test_gradients_match_finite_differences(random_qkv, with_bias, with_mask):
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 2, 3, 2, 2, dtype=torch.float64))
    bias = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    bias[0, 0, 1] = -INF
    key_mask = masks(2, 3) if with_mask else None

    def attend(q, k, v, finite_bias=None):
        # Finite differences of an infinity are NaN, so the -inf entries are set inside.
        bias_ = None if finite_bias is None else finite_bias.masked_fill(bias == -INF, -INF)
        out, lse = attention_reference(q, k, v, bias=bias_, key_mask=key_mask, return_lse=True)
        return out, lse[lse.isfinite()]

    inputs = (q, k, v, bias.nan_to_num(neginf=0.0).requires_grad_()) if with_bias else (q, k, v)
    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_output_matches_torch(random_qkv, scale):
    q, k, v = random_qkv(2, 5, 7, 3, 8, dtype=torch.float64)
    bias = torch.randn(3, 5, 7, dtype=torch.float64)
    key_mask = torch.rand(2, 7) > 0.4
    key_mask[:, 0] = True
    out = attention_reference(q, k, v, bias=bias, key_mask=key_mask, scale=scale)
    mask = bias.masked_fill(~key_mask[:, None, None], -INF)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, scale=scale)
    torch.testing.assert_close(out, expected.transpose(1, 2))
    assert out.is_contiguous()


def test_lse_is_the_natural_logarithm_of_the_denominator(random_qkv):
    q, k, v = random_qkv(1, 2, 3, 1, 4, dtype=torch.float64)
    _, lse = attention_reference(q, k, v, scale=0.5, return_lse=True)
    for i in range(2):
        scores = [0.5 * sum(float(x) * float(y) for x, y in zip(q[0, i, 0], k[0, j, 0], strict=True)) for j in range(3)]
        assert float(lse[0, 0, i]) == pytest.approx(math.log(sum(math.exp(s) for s in scores)), rel=1e-12)


@pytest.mark.parametrize("by", ["key_mask", "bias"])
def test_a_query_that_may_look_nowhere_gives_zeros(random_qkv, by):
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 3, 4, 2, 8))
    bias = torch.zeros(2, 1, 3, 4)
    bias[1] = -INF
    bias.requires_grad_()
    key_mask = torch.tensor([[True] * 4, [False] * 4])
    problem = {"key_mask": key_mask} if by == "key_mask" else {"bias": bias}
    out, lse = attention_reference(q, k, v, return_lse=True, **problem)
    assert (out[1] == 0).all()
    assert (lse[1] == -INF).all()
    (out.sum() + lse[0].sum() + lse[1].sum()).backward()
    for x in (q, k, v, *([bias] if by == "bias" else [])):
        assert x.grad.isfinite().all()
        assert (x.grad[1] == 0).all()
        assert (x.grad[0] != 0).any()


def test_what_stands_in_a_masked_key_does_not_matter(random_qkv):
    q, k, v = random_qkv(2, 3, 5, 2, 8)
    key_mask = torch.tensor([[True, True, False, True, False]]).expand(2, 5)
    k[:, ~key_mask[0]] = float("nan")
    v[:, ~key_mask[0]] = INF
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = attention_reference(q, k, v, key_mask=key_mask)
    torch.testing.assert_close(out, attention_reference(q, k[:, key_mask[0]], v[:, key_mask[0]]))
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("value", [float("nan"), INF, -INF])
def test_a_value_that_is_not_finite_stays_in_its_row(random_qkv, value):
    q, k, v = random_qkv(2, 3, 4, 2, 8)
    clean = attention_reference(q, k, v)
    q[1, 2, 0, 3] = value
    out, lse = attention_reference(q, k, v, return_lse=True)
    hit = torch.zeros(2, 3, 2, dtype=torch.bool)
    hit[1, 2, 0] = True
    assert (~out[hit].isfinite()).all()
    assert not lse.transpose(1, 2)[hit].isfinite().any()
    assert torch.equal(out[~hit], clean[~hit])


@pytest.mark.parametrize("with_lse", [False, True], ids=["softmax", "lse"])
def test_rows_are_the_weights_of_the_chosen_queries(random_qkv, with_lse):
    q, k, v = random_qkv(2, 6, 7, 3, 8, dtype=torch.float64)
    bias = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    bias[0, 1, 4] = -INF
    key_mask = masks(2, 7)
    key_mask[1, 2] = True
    chosen = [4, 0]
    out, lse = attention_reference(q, k, v, bias=bias, key_mask=key_mask, return_lse=True)
    rows = attention_rows(
        q[:, chosen], k, lse[:, :, chosen] if with_lse else None, bias=bias[:, :, chosen], key_mask=key_mask
    )
    assert rows.shape == (2, 3, 2, 7)
    assert (rows[0, 1, 0] == 0).all()
    torch.testing.assert_close(torch.einsum("bhrk,bkhd->brhd", rows, v), out[:, chosen])


def test_rows_never_hold_a_matrix_of_all_queries(random_qkv):
    q, k, _ = random_qkv(1, 300, 300, 2, 16, dtype=torch.bfloat16)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max([largest, *(x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor))])
            return result

    with Sizes():
        rows = attention_rows(q[:, :1], k)
    assert rows.dtype == torch.float32
    assert largest == k.numel()


def test_dropout_zeroes_its_share_and_scales_the_rest():
    size, p = 256, 0.25
    torch.manual_seed(0)
    q = k = torch.zeros(1, size, 1, size)
    v = torch.eye(size).view(1, size, 1, size)  # makes the output the weights themselves
    out, lse = attention_reference(q, k, v, dropout_p=p, return_lse=True)
    share = float((out == 0).double().mean())
    five_deviations = 5 * math.sqrt(p * (1 - p) / size**2)
    assert abs(share - p) < five_deviations
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / size / (1 - p)))
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(size)))
    torch.manual_seed(0)
    assert torch.equal(attention_reference(q, k, v, dropout_p=p), out)


def test_autocast_does_not_lower_the_precision(random_qkv):
    q, k, v = random_qkv(1, 5, 6, 2, 8)
    plain = attention_reference(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention_reference(q, k, v), plain)
        rows = attention_rows(q, k)
    assert torch.equal(rows, attention_rows(q, k))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": torch.zeros(1, 4, 2, 8)}, r"v is \(2, 4, 2, 8\) .* k is \(1, 4, 2, 8\)"),
        ({"q": torch.zeros(2, 3, 16)}, r"q is \(2, 3, 16\) and k is .* \(B, N_q, H, D\)"),
        ({"q": torch.zeros(2, 3, 2, 8).half()}, "q is torch.float16 and k is torch.float32.*one floating dtype"),
        ({"key_mask": torch.ones(2, 4)}, r"key_mask is \(2, 4\) of torch.float32.*torch.bool of \(B, N_k\) = \(2, 4\)"),
        ({"key_mask": torch.ones(1, 4).bool()}, r"key_mask is \(1, 4\)"),
        ({"bias": torch.ones(3, 4).bool()}, "bias is .* of torch.bool.*pass key_mask"),
        ({"bias": torch.ones(5, 4)}, r"bias is \(5, 4\).*broadcasts to \(B, H, N_q, N_k\) = \(2, 2, 3, 4\)"),
        ({"dropout_p": 1.5}, "dropout probability has to be between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused(random_qkv, change, words):
    arguments = dict(zip("qkv", random_qkv(2, 3, 4, 2, 8), strict=True)) | change
    with pytest.raises(ValueError, match=words):
        attention_reference(**arguments)


def test_rows_refuse_an_lse_of_other_queries(random_qkv):
    q, k, v = random_qkv(2, 3, 4, 2, 8)
    _, lse = attention_reference(q, k, v, return_lse=True)
    with pytest.raises(ValueError, match=r"lse is \(2, 2, 3\).*\(B, H, R\) = \(2, 2, 1\): select the same queries"):
        attention_rows(q[:, :1], k, lse)
