"""Lengths, under Triton's interpreter: every one, and for each head dim and each feature those where tiles change."""

import itertools
from functools import partial

import pytest
import torch
from vitzoo_kernels import attention, dropout_mask

from vitzoo.testing import budget, check_attention_numbers

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("guarded_results")]

F16, F32 = torch.float16, torch.float32
NAN, INF = float("nan"), float("inf")
HEAD_DIMS = (16, 32, 48, 64, 72, 80, 88, 96, 104, 112, 128)
# Queries and keys at and beside the sides of tiles, and at most and more than what one program of the backward holds.
LENGTHS = (
    (1, 257),
    (15, 31),
    (16, 273),
    (17, 64),
    (31, 129),
    (33, 15),
    (50, 128),
    (63, 65),
    (64, 197),
    (65, 63),
    (129, 16),
    (201, 201),
    (261, 17),
)


def among_nans(x, *dims):
    """Return the same numbers with NaN after the last of these dimensions, so that what is read past an end shows."""
    memory = x.new_full([size + 280 * (dim in dims) for dim, size in enumerate(x.shape)], NAN)
    return memory[tuple(map(slice, x.shape))].copy_(x)


@pytest.fixture
def draw(random_qkv):
    """Return `random_qkv` with NaN after each image's last row, and with small queries.

    Where one weight is near 1, its error is the largest, and by how much it exceeds the yardstick's is chance.
    """

    def among_nans_and_small(*sizes, dtype):
        q, k, v = random_qkv(*sizes, dtype=dtype)
        return [among_nans(x, 1) for x in (q * 0.4, k, v)]

    return among_nans_and_small


@pytest.mark.parametrize("first", range(1, 321, 20))
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_every_length_is_within_budget(draw, monkeypatch, dtype, first):
    # Time: in float16 the roundings decide the yardstick, not the order of its sums, and most lengths have rows enough.
    monkeypatch.setattr(budget, "FEWEST_ORDERS", 2 if dtype == F16 else 4)
    for length in range(first, first + 20):
        check_attention_numbers(attention, *draw(1, length, length, 2, 64, dtype=dtype))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_dim_is_within_budget(draw, head_dim):
    for i, (num_queries, num_keys) in enumerate(LENGTHS):
        dtype = (F16, F32)[(i + HEAD_DIMS.index(head_dim)) % 2]
        check_attention_numbers(attention, *draw(1, num_queries, num_keys, 2, head_dim, dtype=dtype))


@pytest.mark.usefixtures("whole_heads")
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_dim_is_within_budget_with_a_program_for_each_head(draw, head_dim):
    for i, (num_queries, num_keys) in enumerate(LENGTHS):
        dtype = (F16, F32)[(i + HEAD_DIMS.index(head_dim)) % 2]
        # It needs more than a tile of queries, and room for the keys.
        inputs = draw(1, max(num_queries, 33), min(num_keys, 272), 2, head_dim, dtype=dtype)
        check_attention_numbers(attention, *inputs, with_gradients=False)


def chosen(shift):
    """Return dtypes, lengths of queries and keys, and head dims, which each shift combines in another way.

    Some take twice the time of others: those where 201 queries have a large head dim and so small tiles.
    """
    return [
        ((F16, F32)[(i + shift) % 2], num_queries, num_keys, HEAD_DIMS[(4 * i + shift) % len(HEAD_DIMS)])
        for i, (num_queries, num_keys) in enumerate(LENGTHS)
    ]


def seeded(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_keys(num_keys):
    """Return a mask of random keys for two images; the second has none."""
    mask = torch.rand(2, num_keys, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[0, -1], mask[1] = True, False
    return mask


def test_a_bias_and_its_gradient_are_within_budget(draw):
    shapes = itertools.cycle(["bhqk", "hqk", "bhq1", "b1qk", "qk", "h1k", "b11k"])
    for (dtype, num_queries, num_keys, head_dim), shape in zip(chosen(3), shapes, strict=False):
        sizes = {"b": 2, "h": 2, "q": num_queries, "k": num_keys, "1": 1}
        bias = seeded(*(sizes[x] for x in shape)).to(dtype)
        bias = among_nans(bias, bias.ndim - 2, bias.ndim - 1).requires_grad_()
        check_attention_numbers(attention, *draw(2, num_queries, num_keys, 2, head_dim, dtype=dtype), bias=bias)


# Weights of masked keys are computed and dropped, and some of them overflow.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
def test_a_bias_that_hides_keys_is_within_budget(draw):
    for dtype, num_queries, num_keys, head_dim in chosen(13):
        bias = seeded(2, num_queries, num_keys).to(dtype)
        bias[:, :, 1::3] = -INF
        inputs = draw(1, num_queries, num_keys, 2, head_dim, dtype=dtype)
        check_attention_numbers(attention, *inputs, bias=among_nans(bias, 1, 2))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
def test_a_key_mask_is_within_budget(draw):
    for dtype, num_queries, num_keys, head_dim in chosen(2):
        inputs = draw(2, num_queries, num_keys, 2, head_dim, dtype=dtype)
        check_attention_numbers(attention, *inputs, key_mask=some_keys(num_keys))


def test_dropout_is_within_budget(draw):
    for i, (dtype, num_queries, num_keys, head_dim) in enumerate(chosen(11)):
        p, seed = (0.1, 0.37, 0.5)[i % 3], torch.tensor([2**40 + i, 2**33 + i])
        keep = dropout_mask(seed, p, (1, 2, num_queries, num_keys))
        inputs = draw(1, num_queries, num_keys, 2, head_dim, dtype=dtype)
        check_attention_numbers(partial(attention, dropout_p=p, dropout_seed=seed), *inputs, dropout=(keep, p))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
def test_everything_at_once_is_within_budget(draw):
    seed = torch.tensor([1, 2])
    dropping = partial(attention, dropout_p=0.2, dropout_seed=seed)
    for i, (dtype, num_queries, num_keys, head_dim) in enumerate(chosen(1)):
        # Two with a gradient of the bias, one of each dtype, then two without.
        bias = among_nans(seeded(2, num_queries, num_keys).to(dtype), 1, 2).requires_grad_(i % 4 < 2)
        keep = dropout_mask(seed, 0.2, (2, 2, num_queries, num_keys))
        inputs = draw(2, num_queries, num_keys, 2, head_dim, dtype=dtype)
        mask = some_keys(num_keys)
        check_attention_numbers(dropping, *inputs, bias=bias, key_mask=mask, dropout=(keep, 0.2))


def test_scales_of_either_sign_and_none_are_within_budget(draw):
    scales = itertools.cycle([-0.2, 0.0, 0.02])
    for (dtype, num_queries, num_keys, head_dim), scale in zip(chosen(7), scales, strict=False):
        check_attention_numbers(attention, *draw(1, num_queries, num_keys, 2, head_dim, dtype=dtype), scale=scale)


def test_an_lse_without_gradient_is_within_budget(draw):
    for dtype, num_queries, num_keys, head_dim in chosen(6):
        inputs = draw(1, num_queries, num_keys, 2, head_dim, dtype=dtype)
        check_attention_numbers(attention, *inputs, with_lse=False)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("p", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "pairs"),
    [(F16, 80, LENGTHS[::4]), (F16, 112, LENGTHS[1::4]), (F32, 128, LENGTHS[2::4]), (F32, 48, LENGTHS[3::4])],
)
def test_packed_sequences_are_within_budget(draw, dtype, head_dim, pairs, p):
    lengths_q, lengths_k = zip(*pairs, strict=True)
    inputs = draw(1, sum(lengths_q), sum(lengths_k), 2, head_dim, dtype=dtype)
    seed = torch.tensor([1, 2])
    places = {
        f"cu_seqlens_{x}": torch.tensor([0, *lengths]).cumsum(0).int()
        for x, lengths in (("q", lengths_q), ("k", lengths_k))
    }
    longest = {"max_seqlen_q": max(lengths_q), "max_seqlen_k": max(lengths_k)}
    kept = dropout_mask(seed, p, (len(pairs), 2, *longest.values()))
    own = torch.block_diag(*(torch.ones(pair) for pair in pairs)) != 0
    keep = torch.stack(
        [torch.block_diag(*(x[:a, :b] for x, (a, b) in zip(kept[:, h], pairs, strict=True))) for h in (0, 1)]
    )

    def packed(q, k, v, *, bias, **arguments):
        # The bias is the truth's way to keep sequences apart.
        return attention(q, k, v, **places, **longest, dropout_p=p, dropout_seed=seed, **arguments)

    apart = torch.zeros(own.shape, dtype=dtype).masked_fill(~own, -INF)
    check_attention_numbers(packed, *inputs, bias=apart, dropout=(keep[None] != 0, p))
