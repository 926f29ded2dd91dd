"""The Triton kernels, run on the CPU by Triton's interpreter: numbers, bounds, edges and the operators around them."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from vitzoo_kernels import attention, attention_reference

from vitzoo.testing import check_attention_numbers

pytestmark = pytest.mark.interpreter

F16, F32 = torch.float16, torch.float32
NAN, INF = float("nan"), float("inf")


def gradients(attend, inputs, douts, **arguments):
    """Return out, lse, dq, dk and dv, without changing the strides of the inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = attend(*leaves, return_lse=True, **arguments)
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, douts))]


def random_douts(q, seed=9):
    generator = torch.Generator().manual_seed(seed)
    batch, num_queries, num_heads, _ = q.shape
    return torch.randn(q.shape, generator=generator).to(q), torch.randn(
        batch, num_heads, num_queries, generator=generator
    )


@pytest.mark.parametrize(
    ("dtype", "batch", "num_queries", "num_keys", "num_heads", "head_dim", "scale"),
    [
        (F32, 2, 1, 1, 4, 16, None),
        (F16, 3, 1, 1, 3, 64, None),
        (F16, 2, 2, 1, 2, 80, None),
        (F32, 2, 1, 257, 4, 48, None),
        (F16, 1, 257, 2, 2, 16, 0.7),
        (F32, 1, 31, 37, 2, 32, -0.2),
        (F16, 1, 37, 31, 2, 120, None),
        (F32, 2, 50, 37, 1, 72, None),
        (F16, 2, 65, 50, 1, 72, 0.05),
        (F32, 1, 64, 64, 2, 64, None),
        (F16, 1, 65, 64, 2, 128, None),
        (F32, 1, 65, 64, 1, 128, None),
        (F16, 1, 196, 197, 1, 96, None),
        (F32, 1, 196, 50, 1, 80, None),
        (F32, 1, 31, 65, 2, 104, None),
        (F16, 1, 64, 31, 2, 112, None),
        (F16, 1, 50, 65, 2, 88, 0.0),
        (F16, 1, 257, 257, 1, 64, None),
        (F32, 1, 197, 197, 2, 64, None),
    ],
)
def test_output_lse_and_gradients_are_within_budget(
    random_qkv, dtype, batch, num_queries, num_keys, num_heads, head_dim, scale
):
    q, k, v = random_qkv(batch, num_queries, num_keys, num_heads, head_dim, dtype=dtype)
    check_attention_numbers(attention, q, k, v, scale=scale)


@pytest.mark.shipped_tiles
@pytest.mark.parametrize(("num_queries", "num_keys", "head_dim"), [(37, 50, 64), (50, 33, 16), (20, 35, 112)])
def test_float32_is_within_budget_with_the_tiles_of_a_gpu(random_qkv, num_queries, num_keys, head_dim):
    q, k, v = random_qkv(1, num_queries, num_keys, 2, head_dim)
    bias = torch.randn(2, num_queries, num_keys, generator=torch.Generator().manual_seed(1)).requires_grad_()
    check_attention_numbers(attention, q, k, v)
    check_attention_numbers(attention, q, k, v, bias=bias)


def packed(batch, num_tokens, num_heads, head_dim, dtype, offset=0):
    """Return q, k and v as slices of one packed tensor, in the middle of memory that is NaN."""
    shape = (batch, num_tokens, 3, num_heads, head_dim)
    memory = torch.full((5 * num_heads * head_dim * (batch * num_tokens + 100) + offset,), NAN, dtype=dtype)
    rows = memory[offset + 7 * num_heads * head_dim :]
    # NaN beside each token, after each image and, for a whole tile, after the last, so that a read past an end shows.
    stride_n = 5 * num_heads * head_dim
    strides = ((num_tokens + 4) * stride_n, stride_n, num_heads * head_dim, head_dim, 1)
    qkv = rows.as_strided(shape, strides)
    qkv.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
    return qkv.unbind(2)


@pytest.mark.parametrize(
    ("dtype", "num_tokens", "head_dim", "offset"),
    [(F32, 37, 72, 0), (F16, 50, 80, 0), (F16, 65, 32, 1), (F32, 31, 16, 3)],
)
def test_nothing_is_read_or_written_beside_the_tensors(guarded_results, dtype, num_tokens, head_dim, offset):
    inputs = packed(2, num_tokens, 2, head_dim, dtype, offset)
    douts = random_douts(inputs[0])
    stored = torch.empty(0, dtype=torch.uint8).set_(inputs[0].untyped_storage())
    before = stored.clone()
    found = gradients(attention, inputs, douts)
    assert len(guarded_results) in (5, 6)  # out, lse, dq, dk, dv, and delta where the backward is split
    assert not any(x.isnan().any() for x in guarded_results)
    assert torch.equal(stored, before)
    expected = gradients(attention, [x.contiguous() for x in inputs], douts)
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_shared_keys_and_odd_strides_are_read_in_place(random_qkv, dtype):
    _, k, v = random_qkv(2, 33, 20, 3, 24, dtype=dtype)
    odd = torch.randn(2, 33, 3, 29).to(dtype)[..., 1:25]  # strides of no common factor, odd first element
    shared_k = k[:1, :, :1].expand(2, 20, 3, 24)
    shared_v = v[:, :, :1].expand(2, 20, 3, 24)
    douts = random_douts(odd)
    found = gradients(attention, (odd, shared_k, shared_v), douts)
    expected = gradients(attention, [x.contiguous() for x in (odd, shared_k, shared_v)], douts)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert found[0].is_contiguous()


@pytest.mark.parametrize("layout", ["expanded", "transposed", "every_second"])
def test_the_gradient_of_the_output_may_have_any_strides(random_qkv, layout):
    inputs = random_qkv(2, 33, 20, 2, 16)
    dout, dlse = random_douts(inputs[0])
    douts = {
        "expanded": (torch.ones(()).expand(dout.shape), torch.ones(()).expand(dlse.shape)),
        "transposed": (dout.transpose(1, 3).contiguous().transpose(1, 3), dlse.mT.contiguous().mT),
        "every_second": (torch.stack([dout, dout], 4).flatten(3)[..., ::2], torch.stack([dlse, dlse], 3)[..., 0]),
    }[layout]
    assert not douts[0].is_contiguous()
    found = gradients(attention, inputs, douts)
    expected = gradients(attention, inputs, [x.contiguous() for x in douts])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_out_and_lse_can_be_differentiated_alone(random_qkv):
    inputs = [x.requires_grad_() for x in random_qkv(1, 20, 9, 2, 16)]
    for loss in (lambda out, lse: out.sin().sum(), lambda out, lse: lse.sin().sum()):
        found = torch.autograd.grad(loss(*attention(*inputs, return_lse=True)), inputs)
        expected = torch.autograd.grad(
            loss(*attention_reference(*inputs, return_lse=True)), inputs, materialize_grads=True
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("stride_b", "stride_n", "stride_h"),
    [(2**31 + 8, 128, 16), (128 * 40, 2**26 + 8, 16), (128, 256, 2**31 + 8)],
    ids=["image", "token", "head"],
)
def test_offsets_pass_two_to_the_31_elements(stride_b, stride_n, stride_h):
    shape, strides = (2, 35, 4, 2, 16), (stride_b, stride_n, 32, stride_h, 1)
    # Pages that nobody touches take no memory. An offset that wraps around points outside: the process then crashes.
    memory = torch.empty(sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1, dtype=F16)
    tensors = memory.as_strided(shape, strides)
    tensors.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    dlse = torch.ones(2, 2, 35)
    results = []
    for q, k, v, dout in (tensors.unbind(2), tensors.contiguous().unbind(2)):
        results.append(gradients(attention, (q, k, v), (dout, dlse)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_two_runs_give_the_same_bits(random_qkv, dtype):
    inputs = random_qkv(2, 70, 67, 2, 40, dtype=dtype)
    douts = random_douts(inputs[0])
    first, second = (gradients(attention, inputs, douts) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# Lanes past the last key have score 0 and so an infinite weight, if lse is very negative; the kernel drops them.
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("sign", [1, -1], ids=["large", "very_negative"])
def test_logits_of_ten_thousand_are_within_budget(random_qkv, sign):
    # All scores are near sign * 10,000, a few units apart, so that no weight is trivially 0 or 1.
    q, k, v = random_qkv(2, 37, 50, 2, 64)
    q, k = q / 100 + 35.0, k / 100 + sign * 35.0
    _, lse = attention(q, k, v, return_lse=True)
    assert (lse * sign > 9_000).all()
    check_attention_numbers(attention, q, k, v)


@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_a_key_far_ahead_takes_all_the_weight(random_qkv, dtype):
    k, _, v = random_qkv(1, 70, 70, 2, 64, dtype=dtype)
    k = k * 35  # its score with itself is near 10,000, with others thousands less
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attention(k[:, order], k, v), v[:, order])


@pytest.mark.filterwarnings("ignore:(invalid value|overflow|All-NaN slice):RuntimeWarning")
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["q", "k", "v", "dout", "dlse"])
def test_what_is_not_finite_goes_where_the_reference_says(random_qkv, where, value):
    inputs = dict(zip("qkv", random_qkv(2, 37, 67, 2, 48), strict=True))
    inputs["dout"], inputs["dlse"] = random_douts(inputs["q"])
    if where == "dlse":
        inputs["dlse"][1, 0, 36] = value
    else:
        inputs[where][1, 36, 0, 3] = value
    tensors = tuple(inputs.values())
    found = gradients(attention, tensors[:3], tensors[3:])
    expected = gradients(attention_reference, tensors[:3], tensors[3:])
    assert any(not x.isfinite().all() for x in found)
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite()), name
        finite = b.isfinite()
        torch.testing.assert_close(a[finite], b[finite])


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|All-NaN slice):RuntimeWarning")
def test_a_first_tile_of_infinitely_small_scores_leaves_the_rest(random_qkv):
    q, k, v = random_qkv(1, 5, 200, 1, 16)
    q[..., 3] = -1.0
    k[:, :150, :, 3] = INF
    out, lse = attention(q, k, v, return_lse=True)
    torch.testing.assert_close((out, lse), attention_reference(q, k[:, 150:], v[:, 150:], return_lse=True))
    k[..., 3] = INF
    out, lse = attention(q, k, v, return_lse=True)
    assert out.isnan().all()
    assert (lse == -INF).all()


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN slice):RuntimeWarning")
def test_an_infinite_key_without_weight_leaves_the_gradients_of_keys_and_values(random_qkv):
    inputs = random_qkv(1, 5, 7, 2, 16)
    inputs[0][..., 3] = -1.0
    inputs[1][0, 6, 0, 3] = INF  # its scores are all -inf
    douts = random_douts(inputs[0])
    found = gradients(attention, inputs, douts)
    expected = gradients(attention_reference, inputs, douts)
    assert found[3].isfinite().all()
    assert found[4].isfinite().all()
    torch.testing.assert_close(found, expected, equal_nan=True)


# opcheck reads the .grad of inputs that are no leaves, and torch warns of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_operators_keep_their_contracts(random_qkv):
    inputs = [x.requires_grad_() for x in random_qkv(2, 7, 5, 2, 16)]
    torch.library.opcheck(torch.ops.vitzoo.attention_forward.default, (*inputs, 0.25))
    tensors = [x.detach() for x in inputs]
    out, lse = torch.ops.vitzoo.attention_forward(*tensors, 0.25)
    douts = random_douts(out)
    torch.library.opcheck(torch.ops.vitzoo.attention_backward.default, (*douts, *tensors, out, lse, 0.25, False))


def test_compiling_gives_one_graph_for_all_lengths():
    def layer(qkv):
        out, lse = attention(*qkv.unbind(2), scale=0.3, return_lse=True)
        return out.flatten(2) * 2, lse

    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for num_tokens in (37, 50, 65):
        qkv = torch.randn(2, num_tokens, 3, 2, 24, requires_grad=True)
        torch._dynamo.mark_dynamic(qkv, 1)
        for a, b in zip(compiled(qkv), layer(qkv), strict=True):
            assert torch.equal(a, b)
        found, expected = (torch.autograd.grad(sum(x.sin().sum() for x in f(qkv)), qkv)[0] for f in (compiled, layer))
        assert torch.equal(found, expected)
    assert backend.frame_count == 1


def test_autocast_casts_the_inputs(random_qkv):
    q, k, v = random_qkv(1, 5, 6, 2, 16)
    with torch.autocast("cpu", F16):
        out = attention(q, k.half(), v)
    assert torch.equal(out, attention(q.half(), k.half(), v.half()))


def test_a_second_derivative_is_refused(random_qkv):
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 5, 6, 2, 16))
    (dq,) = torch.autograd.grad(attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"a second derivative .* only the first: use attention_reference"):
        dq.sum().backward()


def test_bfloat16_is_refused_by_the_interpreter(random_qkv):
    q, k, v = random_qkv(1, 5, 6, 2, 16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"bfloat16 under Triton's interpreter \(supported there: float16, float32\)"):
        attention(q, k, v)
