"""What the kernels do beside plain attention, under Triton's interpreter: bias, masks, dropout, packed tensors and batches."""

import contextlib
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode
from vitzoo_kernels import attention, attention_qkvpacked, attention_reference, attention_varlen, dropout_mask
from vitzoo_kernels.dense import configs

from vitzoo.testing import check_attention_numbers

pytestmark = pytest.mark.interpreter

F16, F32 = torch.float16, torch.float32
NAN, INF = float("nan"), float("inf")


def seeded(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_keys(batch, num_keys, share=0.6):
    """Return a mask of random keys; the last image has none, when there is more than one."""
    mask = torch.rand(batch, num_keys, generator=torch.Generator().manual_seed(2)) < share
    mask[0, -1] = True
    if batch > 1:
        mask[-1] = False
    return mask


@pytest.mark.parametrize(
    ("dtype", "batch", "num_queries", "num_keys", "num_heads", "head_dim", "shape", "masked"),
    [
        (F32, 2, 37, 70, 2, 32, (2, 2, 37, 70), False),
        (F16, 3, 70, 37, 2, 72, (2, 37 + 33, 37), False),
        (F16, 2, 65, 65, 3, 64, (2, 1, 65, 65), True),
        (F32, 2, 49, 49, 3, 32, (3, 49, 49), True),
        (F32, 3, 20, 33, 2, 48, (1, 33), False),
        (F32, 2, 9, 40, 4, 16, (4, 1, 40), False),
        (F16, 1, 130, 20, 1, 80, (130, 1), False),
        (F16, 2, 5, 7, 2, 112, (), False),
    ],
)
def test_a_bias_and_its_gradient_are_within_budget(
    random_qkv, dtype, batch, num_queries, num_keys, num_heads, head_dim, shape, masked
):
    q, k, v = random_qkv(batch, num_queries, num_keys, num_heads, head_dim, dtype=dtype)
    bias = seeded(*shape).to(dtype).requires_grad_()
    check_attention_numbers(attention, q, k, v, bias=bias, key_mask=some_keys(batch, num_keys) if masked else None)


def test_the_gradient_of_a_bias_is_summed_in_shares(random_qkv, monkeypatch):
    q, k, v = random_qkv(7, 9, 9, 2, 16)
    bias = seeded(2, 9, 9).requires_grad_()
    for programs in (1, 4, 1000):
        monkeypatch.setattr(configs, "BIAS_PROGRAMS", programs)
        check_attention_numbers(attention, q, k, v, bias=bias)


# Weights of masked keys are computed and dropped, and some of them overflow.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_a_query_that_may_look_at_nothing_has_zeros_and_no_gradient(random_qkv, dtype):
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 37, 70, 2, 32, dtype=dtype))
    bias = seeded(1, 2, 37, 70).to(dtype)
    bias[..., 5, :] = -INF
    bias[..., 6, :] = 0.0
    mask = some_keys(2, 70)
    bias.requires_grad_()
    out, lse = attention(q, k, v, bias=bias, key_mask=mask, return_lse=True)
    assert torch.equal(
        lse == -INF,
        torch.zeros(lse.shape, dtype=torch.bool).index_fill(2, torch.tensor(5), True) | ~mask.any(1)[:, None, None],
    )
    assert (out[1] == 0).all()
    assert (out[:, 5] == 0).all()
    grads = torch.autograd.grad(out.square().sum(), (q, k, v, bias))
    assert all(x.isfinite().all() for x in grads)
    assert (grads[0][1] == 0).all()
    assert (grads[0][:, 5] == 0).all()
    assert (grads[1][1] == 0).all()
    assert (grads[2][1] == 0).all()
    assert (grads[3][:, :, 5] == 0).all()
    assert (grads[0][0, 6] != 0).any()


# The square of an lse of -inf has an infinite gradient. With a gradient of the bias the backward is split.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("with_gradient", [False, True], ids=["bias", "bias_with_gradient"])
def test_the_gradient_of_the_lse_of_a_query_that_may_look_at_nothing_reaches_nobody(random_qkv, with_gradient, value):
    inputs = random_qkv(1, 20, 37, 2, 16)
    bias = seeded(2, 20, 37)
    bias[:, 5] = -INF
    dout, dlse = seeded(1, 20, 2, 16, seed=1), seeded(1, 2, 20, seed=2)
    dlse[:, :, 5] = value
    results = []
    for function in (attention, attention_reference):
        leaves = [x.clone().requires_grad_() for x in (*inputs, *([bias] if with_gradient else []))]
        outputs = function(*leaves[:3], bias=leaves[3] if with_gradient else bias, return_lse=True)
        results.append(torch.autograd.grad(outputs, leaves, (dout, dlse)))
    assert all(x.isfinite().all() for x in results[1])
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("num_keys", [50, 300])
def test_what_stands_in_a_masked_key_never_matters(random_qkv, num_keys):
    mask = some_keys(1, num_keys)
    results = []
    for filling in (0.0, NAN, INF):
        q, k, v = random_qkv(1, 37, num_keys, 2, 32)
        for x in (k, v):
            x[~mask] = filling
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out, lse = attention(*leaves, key_mask=mask, return_lse=True)
        results.append([out, lse, *torch.autograd.grad(out.sin().sum() + lse.sum(), leaves)])
    for name, *found in zip(("out", "lse", "dq", "dk", "dv"), *results, strict=True):
        assert torch.equal(found[0], found[1]), name
        assert torch.equal(found[0], found[2]), name


@pytest.mark.parametrize(
    ("dtype", "num_queries", "num_keys", "head_dim", "p", "with_bias"),
    [(F32, 37, 70, 32, 0.1, False), (F16, 70, 65, 72, 0.37, False), (F32, 20, 300, 64, 0.5, True)],
)
def test_dropout_forward_and_backward_use_the_published_mask(
    random_qkv, dtype, num_queries, num_keys, head_dim, p, with_bias
):
    q, k, v = random_qkv(2, num_queries, num_keys, 2, head_dim, dtype=dtype)
    seed = torch.tensor([2**40 + 3, 2**33 + 1])
    keep = dropout_mask(seed, p, (2, 2, num_queries, num_keys))
    bias = seeded(2, num_queries, num_keys).to(dtype).requires_grad_() if with_bias else None
    dropping = partial(attention, dropout_p=p, dropout_seed=seed)
    check_attention_numbers(dropping, q, k, v, bias=bias, dropout=(keep, p))


def test_dropout_of_everything_leaves_zeros(random_qkv):
    leaves = [x.requires_grad_() for x in random_qkv(1, 9, 9, 2, 16)]
    out = attention(*leaves, dropout_p=1.0)
    assert all((x == 0).all() for x in (out, *torch.autograd.grad(out.sum(), leaves)))


def test_the_dropout_mask_is_decided_by_seed_offset_and_place_alone(random_qkv, monkeypatch):
    shape = (3, 2, 40, 90)
    seed = torch.tensor([7, 0])
    keep = dropout_mask(seed, 0.25, shape)
    # Five standard deviations of a binomial share.
    assert abs(keep.double().mean() - 0.75) < 5 * (0.25 * 0.75 / keep.numel()) ** 0.5
    assert abs((keep[0] == keep[1]).double().mean() - 0.625) < 5 * (0.625 * 0.375 / keep[0].numel()) ** 0.5
    assert torch.equal(keep[:, :, :30, :70], dropout_mask(seed, 0.25, (3, 2, 30, 70)))
    monkeypatch.setattr(configs, "DROPOUT_MASK", configs.TileConfig(16, 16, 4, 1))
    assert torch.equal(keep, dropout_mask(seed, 0.25, shape))
    for other in ([8, 0], [7, 1], [7 + 2**32, 0]):
        assert abs((keep == dropout_mask(torch.tensor(other), 0.25, shape)).double().mean() - 0.625) < 0.02
    assert dropout_mask(seed, 0.0, shape).all()


def test_dropout_without_a_seed_follows_torchs_generator(random_qkv):
    q, k, v = random_qkv(1, 20, 20, 2, 16)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(attention(q, k, v, dropout_p=0.5))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize(
    ("dtype", "lengths_q", "lengths_k", "head_dim"),
    [
        (F32, (5, 70, 1, 33), (5, 70, 1, 33), 32),
        (F16, (50, 128, 17), (65, 3, 200), 72),
        (F16, (20, 0, 9), (31, 4, 0), 64),
    ],
)
def test_packed_sequences_attend_within_themselves(random_qkv, dtype, lengths_q, lengths_k, head_dim):
    q, k, v = (
        x[:, :n]
        for x, n in zip(
            random_qkv(1, 300, 300, 2, head_dim, dtype=dtype),
            (sum(lengths_q), sum(lengths_k), sum(lengths_k)),
            strict=True,
        )
    )
    places = {
        f"cu_seqlens_{x}": torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        for x, lengths in (("q", lengths_q), ("k", lengths_k))
    }
    longest = {"max_seqlen_q": max(lengths_q), "max_seqlen_k": max(lengths_k) + 3}
    own = torch.block_diag(*(torch.ones(a, b) for a, b in zip(lengths_q, lengths_k, strict=True)))
    apart = torch.zeros(own.shape, dtype=dtype).masked_fill(own == 0, -INF)

    def packed(q, k, v, *, bias, **arguments):
        assert bias is not None  # the truth's way to keep sequences apart
        return attention(q, k, v, **places, **longest, **arguments)

    check_attention_numbers(packed, q, k, v, bias=apart)
    out, lse = attention(q, k, v, **places, **longest, return_lse=True)
    flat, flat_lse = attention_varlen(q[0], k[0], v[0], *places.values(), **longest, return_lse=True)
    assert torch.equal(flat, out[0])
    assert torch.equal(flat_lse, lse[0])
    seed = torch.tensor([1, 2])
    kept = dropout_mask(seed, 0.3, (len(lengths_q), 2, max(lengths_q), max(lengths_k)))
    pairs = zip(lengths_q, lengths_k, strict=True)
    heads = [
        torch.block_diag(*(x[:a, :b] for x, (a, b) in zip(kept[:, h], pairs, strict=True)))
        for h, pairs in enumerate([list(pairs)] * 2)
    ]

    def dropping(q, k, v, **arguments):
        return packed(q, k, v, **arguments, dropout_p=0.3, dropout_seed=seed)

    check_attention_numbers(dropping, q, k, v, bias=apart, dropout=(torch.stack(heads)[None] != 0, 0.3))


def packed_gradients(tensors, douts, places, longest):
    """Return out, lse, dq, dk and dv of packed sequences that lie alike in queries and keys."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    places = torch.tensor(places, dtype=torch.int32)
    outputs = attention(
        *leaves, cu_seqlens_q=places, cu_seqlens_k=places, max_seqlen_q=longest, max_seqlen_k=longest, return_lse=True
    )
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, leaves, douts))]


@pytest.fixture
def packed_tokens(random_qkv):
    """Return q, k and v of 150 tokens in the midst of NaN, and gradients of out and lse."""
    memories = [torch.full((1, 550, 2, 32), NAN, dtype=F16) for _ in range(3)]
    tensors = [memory[:, 200:350] for memory in memories]
    for x, filling in zip(tensors, random_qkv(1, 150, 150, 2, 32), strict=True):
        x.copy_(filling)
    return tensors, (seeded(1, 150, 2, 32).half(), seeded(1, 2, 150))


def test_tokens_after_the_last_packed_sequence_have_zeros(guarded_results, packed_tokens):
    tensors, douts = packed_tokens
    # What belongs to no sequence reaches nobody.
    douts[0][:, 110:], douts[1][..., 110:] = NAN, NAN
    # The longest length may be any number that is large enough.
    results = [packed_gradients(tensors, douts, [0, 5, 75, 76, 110], longest) for longest in (70, 151, 10**12)]
    for out, lse, *grads in results:
        assert all((x[:, 110:] == 0).all() and x.isfinite().all() for x in (out, *grads))
        assert (lse[..., 110:] == -INF).all()
        assert lse[..., :110].isfinite().all()
    alone = [x[:, :110] for x in tensors], (douts[0][:, :110], douts[1][..., :110])
    expected = packed_gradients(*alone, [0, 5, 75, 76, 110], 70)
    for *found, b in zip(*results, expected, strict=True):
        assert all(torch.equal(x[..., :110] if x.ndim == 3 else x[:, :110], b) for x in found)


# A tile of queries that reaches past the last, full ones alone, both kinds, and queries without keys.
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "options"),
    [(37, 50, {}), (128, 64, {}), (197, 197, {}), (37, 50, {"key_mask": some_keys(2, 50)})],
)
def test_without_its_lse_an_output_has_the_same_bits(guarded_results, random_qkv, num_queries, num_keys, options):
    tensors = random_qkv(2, num_queries, num_keys, 2, 32, dtype=F16)
    expected, _ = attention(*tensors, **options, return_lse=True)
    assert torch.equal(attention(*tensors, **options), expected)
    assert len(guarded_results) == 3


def test_without_their_lse_outputs_of_packed_sequences_have_the_same_bits(guarded_results, packed_tokens):
    tensors = [x[0] for x in packed_tokens[0]]
    places = torch.tensor([0, 5, 75, 76, 110], dtype=torch.int32)
    call = partial(attention_varlen, *tensors, places, places, max_seqlen_q=70, max_seqlen_k=70)
    expected, lse = call(return_lse=True)
    assert (expected.shape, lse.shape) == ((150, 2, 32), (2, 150))
    assert torch.equal(call(), expected)
    assert len(guarded_results) == 3


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_packed_sequence_that_is_longer_than_was_said_is_nan_past_that(guarded_results, packed_tokens):
    places = [0, 5, 133, 150]  # 128 rows fill tiles
    expected = packed_gradients(*packed_tokens, places, 128)
    found = packed_gradients(*packed_tokens, places, 20)
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
        a, b = (x.mT if name == "lse" else x.flatten(2) for x in (a, b))  # (1, 150, ...)
        lost = a.isnan().all(-1)[0]
        assert torch.equal(lost[:, None].expand(a[0].shape), a[0].isnan()), name
        assert torch.equal(a[:, ~lost], b[:, ~lost]), name
        # A tile or two of queries have been computed, with all of the keys. Keys have met queries that are NaN.
        first = int(lost.nonzero()[0])
        assert first == 5 if name in ("dk", "dv") else 5 + 64 <= first <= 5 + 128, name
        assert torch.equal(lost, (torch.arange(150) >= first) & (torch.arange(150) < 133)), name


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("places", [[0, 5, 400], [0, 80, 5, 150], [-9, 7, 150], [160, 170, 180], [0, 2**31 - 1, 9]])
def test_offsets_of_no_token_reach_nothing_beside_the_tensors(guarded_results, packed_tokens, places):
    tensors, douts = packed_tokens
    before = [x._base.clone() for x in tensors]
    out, *_ = packed_gradients(tensors, douts, places, 70)
    assert out.isfinite().any() or min(places) >= 150
    for x, memory in zip(tensors, before, strict=True):
        assert torch.equal(x._base.nan_to_num(), memory.nan_to_num())


def spread(x):
    """Return the same numbers with others between them in memory."""
    return torch.stack((x, torch.full_like(x, 1)), -1)[..., 0]


def test_what_comes_beside_the_tokens_may_lie_anywhere(random_qkv):
    q, k, v = random_qkv(1, 37, 37, 2, 32)
    seed, places = torch.tensor([3, 4]), torch.tensor([0, 7, 37], dtype=torch.int32)
    longest = {"max_seqlen_q": 30, "max_seqlen_k": 30}
    for extra in (
        {"bias": seeded(2, 37, 37), "key_mask": some_keys(1, 37)},
        {"dropout_p": 0.5, "dropout_seed": seed},
        {"cu_seqlens_q": places, "cu_seqlens_k": places},
    ):
        rest = longest if "cu_seqlens_q" in extra else {}
        apart = {name: spread(x) if isinstance(x, torch.Tensor) else x for name, x in extra.items()}
        assert torch.equal(attention(q, k, v, **apart, **rest), attention(q, k, v, **extra, **rest)), list(extra)
    assert torch.equal(dropout_mask(spread(seed), 0.5, (1, 2, 9, 9)), dropout_mask(seed, 0.5, (1, 2, 9, 9)))


@pytest.mark.parametrize("num_tokens", [37, 300])
def test_what_the_backward_needs_may_come_back_in_another_layout(random_qkv, num_tokens):
    leaves = [x.requires_grad_() for x in random_qkv(2, num_tokens, num_tokens, 2, 16, dtype=F16)]
    results = []
    for axes in ((0, 0), (0, 1), (-1, -2)):

        def back(x, axes=axes):
            return x.transpose(*axes).contiguous().transpose(*axes)

        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, back):
            out = attention(*leaves)
            results.append(torch.autograd.grad(out.square().sum(), leaves))
    for expected, *found in zip(*results, strict=True):
        assert all(torch.equal(x, expected) for x in found)


@pytest.mark.parametrize(("num_tokens", "head_dim"), [(37, 72), (130, 16)])
def test_a_packed_tensor_has_one_gradient_of_the_same_bits(num_tokens, head_dim):
    qkv = seeded(2, num_tokens, 3, 2, head_dim).half().requires_grad_()
    bias = seeded(2, num_tokens, num_tokens).requires_grad_()
    for extra in ({}, {"bias": bias, "key_mask": some_keys(2, num_tokens)}):
        results = []
        for function in (lambda x, **e: attention(*x.unbind(2), **e), attention_qkvpacked):
            out, lse = function(qkv, **extra, return_lse=True)
            leaves = [qkv, *([bias] if extra else [])]
            results.append([out, lse, *torch.autograd.grad(out.sin().sum(), leaves)])
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
    assert results[1][2].is_contiguous()


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_operators_keep_their_contracts_with_everything(random_qkv):
    q, k, v = (x.requires_grad_() for x in random_qkv(2, 7, 5, 2, 16))
    bias, mask, seed = seeded(2, 7, 5).requires_grad_(), some_keys(2, 5), torch.tensor([3, 4])
    places = torch.tensor([0, 2, 5], dtype=torch.int32)
    image = [x[:1, :5] for x in (q, k, v)]
    check_operators((q, k, v), (bias, mask, 0.5, seed), packed=False)
    check_operators(image, (None, None, 0.5, seed, places, places, 3, 3), packed=False)
    # A bias that neither lies like its gradient nor has its dtype.
    strided = seeded(2, 5, 1, 2).half().permute(0, 3, 1, 2).requires_grad_()
    qkv = seeded(2, 5, 3, 2, 16).requires_grad_()
    check_operators((qkv,), (strided, mask, 0.5, seed), packed=True)
    check_operators((qkv[:1],), (None, None, 0.0, None, places, places, 3, 3), packed=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("way", ["compiled", "counted", "batched"])
def test_the_backward_of_an_eager_call_is_seen_by_who_traces_counts_or_batches_it(random_qkv, way):
    leaves = [x.requires_grad_() for x in random_qkv(1, 20, 20, 2, 16)]
    dout = seeded(2, 1, 20, 2, 16)
    out = attention(*leaves)
    expected = [torch.autograd.grad(out, leaves, x, retain_graph=True) for x in dout]
    if way == "counted":
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(out, leaves, dout[0])
        # Five products.
        assert counter.get_total_flops() == 5 * 2 * 2 * 20 * 20 * 16
    elif way == "batched":
        found = torch.autograd.grad(out, leaves, dout, is_grads_batched=True)
        assert all(torch.equal(a, torch.stack(b)) for a, b in zip(found, zip(*expected, strict=True), strict=True))
    else:
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            out.backward(dout[0])
        for leaf, b in zip(leaves, expected[0], strict=True):
            torch.testing.assert_close(leaf.grad, b)


def test_a_key_of_a_class_of_its_own_goes_through_the_operators(random_qkv):
    q, k, v = random_qkv(1, 9, 20, 2, 16)
    bias = seeded(9, 20)
    expected = attention(q, k, v, bias=bias)
    for others, beside in (((TwoTensor(k, k), TwoTensor(v, v)), bias), ((k, v), TwoTensor(bias, bias))):
        out = attention(q, *others, bias=beside)
        assert type(out) is TwoTensor
        assert torch.equal(out.a, expected)


# torch's least finite numbers hide keys in many a mask.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("dtype", [F32, torch.bfloat16, F16], ids=str)
@pytest.mark.parametrize("num_tokens", [20, 300])
def test_a_bias_of_the_least_finite_number_hides_keys_and_a_row_of_it_is_their_mean(random_qkv, dtype, num_tokens):
    bias = seeded(num_tokens, num_tokens)
    bias[3] = bias[5, 4:] = torch.finfo(dtype).min
    bias.requires_grad_()
    # What nobody can look from has no gradient, as in a model that masks its loss.
    dout = seeded(1, num_tokens, 2, 16)
    dout[:, 3] = 0
    results = []
    for function in (attention, attention_reference):
        leaves = [x.requires_grad_() for x in random_qkv(1, num_tokens, num_tokens, 2, 16)]
        out = function(*leaves, bias=bias)
        results.append([out, *torch.autograd.grad(out, (*leaves, bias), dout)])
    for found, expected in zip(*results, strict=True):
        # The error at -65504, where a float32 has steps of 1/256; beyond, all scores of the row are the same.
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if dtype == F16 else 1e-5)


class Packed(torch.nn.Module):
    def forward(self, x, places):
        return attention_varlen(x, x, x, places, places, max_seqlen_q=x.shape[0], max_seqlen_k=x.shape[0])


@pytest.mark.parametrize("strict", [False, True])
def test_packed_sequences_export_with_a_number_of_tokens_that_changes(strict):
    model, places = Packed(), torch.tensor([0, 5, 12], dtype=torch.int32)
    tokens = {0: torch.export.Dim("tokens", min=4, max=400)}
    exported = torch.export.export(model, (seeded(12, 2, 16), places), dynamic_shapes=(tokens, None), strict=strict)
    x, places = seeded(30, 2, 16), torch.tensor([0, 9, 30], dtype=torch.int32)
    assert torch.equal(exported.module()(x, places), model(x, places))


def test_an_unused_seed_may_change_before_the_backward(random_qkv):
    leaves = [x.requires_grad_() for x in random_qkv(1, 9, 9, 2, 16)]
    seed = torch.tensor([3, 4])
    out = attention(*leaves, dropout_seed=seed)
    seed += 1
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), leaves))


def check_operators(tensors, extras, *, packed):
    """Let torch check schema, fake, strides and autograd of a forward operator, and of its backward."""
    forward, backward = (
        getattr(torch.ops.vitzoo, f"{'packed_' if packed else ''}attention_{way}").default
        for way in ("forward", "backward")
    )
    torch.library.opcheck(forward, (*tensors, 0.25, *extras))
    tensors = [x.detach() for x in tensors]
    extras = [x.detach() if isinstance(x, torch.Tensor) else x for x in extras]
    out, lse = forward(*tensors, 0.25, *extras)
    for dlse in (None, torch.ones_like(lse)):
        for bias_grad in {False, extras[0] is not None}:
            torch.library.opcheck(backward, (out, dlse, *tensors, out, lse, 0.25, bias_grad, *extras))


@pytest.mark.parametrize("packed", [False, True])
def test_flops_are_counted(packed):
    qkv = seeded(2, 7, 3, 4, 16).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = attention_qkvpacked(qkv) if packed else attention(*qkv.unbind(2))
        assert counter.get_total_flops() == 4 * 2 * 4 * 7 * 7 * 16
        out.sum().backward()
    assert counter.get_total_flops() == (4 + 10) * 2 * 4 * 7 * 7 * 16


def test_flops_of_packed_sequences_are_those_of_each(random_qkv):
    q, k, v = random_qkv(1, 9, 12, 4, 16)
    places = {"cu_seqlens_q": [0, 2, 9], "cu_seqlens_k": [0, 5, 12]}
    longest = {"max_seqlen_q": 7, "max_seqlen_k": 7}
    for fake, pairs in ((contextlib.nullcontext(), 2 * 5 + 7 * 7), (FakeTensorMode(), 2 * 7 * 7)):
        with fake as mode:
            tensors = [x if mode is None else mode.from_tensor(x) for x in (q, k, v)]
            offsets = {name: torch.tensor(each, dtype=torch.int32) for name, each in places.items()}
            with FlopCounterMode(display=False) as counter:
                attention(*tensors, **offsets, **longest)
        assert counter.get_total_flops() == 4 * 4 * 16 * pairs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"bias": torch.zeros(3, 5, 5)},
            r"bias is \(3, 5, 5\) of float32; .* broadcasts to \(B, H, N_q, N_k\) = \(2, 2, 5, 5\)",
        ),
        ({"bias": torch.zeros(5, 5, dtype=torch.bool)}, "bias is .* of bool; .* for a bool mask of keys pass key_mask"),
        (
            {"key_mask": torch.ones(2, 5)},
            r"key_mask is \(2, 5\) of float32; attention takes torch.bool of \(B, N_k\) = \(2, 5\)",
        ),
        ({"dropout_p": 1.5}, "dropout_p is 1.5; it is a share from 0 to 1"),
        (
            {"dropout_p": 0.5, "dropout_seed": torch.zeros(2)},
            r"dropout_seed is \(2,\) of float32 .* torch.int64 of \(2,\)",
        ),
        (
            {"cu_seqlens_q": torch.zeros(2, dtype=torch.int32)},
            "packed sequences need all of cu_seqlens_q, cu_seqlens_k, max_",
        ),
    ],
)
def test_wrong_extras_are_refused(random_qkv, arguments, words):
    with pytest.raises(ValueError, match=words):
        attention(*random_qkv(2, 5, 5, 2, 16), **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cu_seqlens_k": torch.tensor([0, 5])}, r"cu_seqlens_k is \(2,\) of int64; attention takes torch.int32"),
        ({"max_seqlen_q": 0}, "max_seqlen_q is 0; it is the length of the longest sequence, at least 1"),
        ({"bias": torch.zeros(5, 5)}, "packed sequences have no bias and no key_mask; leave padding out of them"),
    ],
)
def test_wrong_packed_sequences_are_refused(random_qkv, changes, words):
    places = torch.tensor([0, 5], dtype=torch.int32)
    arguments = {"cu_seqlens_q": places, "cu_seqlens_k": places, "max_seqlen_q": 5, "max_seqlen_k": 5}
    with pytest.raises(ValueError, match=words):
        attention(*random_qkv(1, 5, 5, 2, 16), **(arguments | changes))
