# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The online softmax that both forward kernels share: a tile of queries meets groups of keys one after the other.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 1. For each query there are a running maximum, a running sum
and an unnormalised output; when a group of keys raises the maximum, what was summed before is rescaled. A group is a
tuple of tiles of keys, as `load_keys` returns them; all its scores are in registers at once, with one rescaling.

`heads` holds where the rows of one head begin: q, k, v, out, and the number of the head. `strides` holds how far
apart these rows are in elements, for q, k, v and out, and the bias's strides for queries and keys. `numbers` holds the
scale, the dropout's threshold and its factor.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import (
    LOG2_E,
    add_products,
    dropout_kept,
    load_bias,
    load_rows,
    row_products,
    scaled_rows,
    store_rows,
    zero_rows,
)

# Below any finite score, yet finite: while a row has seen only -inf scores, (-inf) - LOWEST is -inf, not NaN.
LOWEST = tl.constexpr(-3.4028234663852886e38)
LN_2 = tl.constexpr(0.6931471805599453)
# Times log2(e) it leaves scores of 1e36 room below the largest float32.
LEAST_BIAS = tl.constexpr(-2.35e38)


@triton.jit
def load_query(
    heads, strides, first_query, num_queries, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr,
):  # fmt: skip
    """Return the rows of q of a tile, their numbers, and which of them exist."""
    offsets = tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    m = first_query + offsets
    inside_m = m < num_queries
    base = heads[0] + tl.cast(first_query, tl.int64) * strides[0]
    q = load_rows(base, offsets.to(tl.int64), strides[0], inside_m, HEAD_DIM, DIM, MASK_M)
    return q, m, inside_m


@triton.jit
def zero_sums(DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return what the sums over keys start from: unnormalised output, maximum, sum, and whether a key was seen."""
    return (
        zero_rows(BLOCK_M, DIM),
        tl.full((BLOCK_M,), LOWEST, tl.float32),
        tl.zeros((BLOCK_M,), tl.float32),
        tl.zeros((BLOCK_M,), tl.int32),
    )


@triton.jit
def add_group(
    sums,
    group,
    query,
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    strides,
    numbers,
    MASK_M: tl.constexpr,
    MASK_N: tl.constexpr,  # whether the last tile of the group reaches past the last key
    FIRST: tl.constexpr,  # whether the sums are still zero
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add one or several tiles of keys to the sums, with one rescaling for all of them."""
    acc, row_max, row_sum, seen = sums
    scale_log2, _, _ = numbers
    scores, seen = _scores(
        seen, group, query, bias_head, mask_row, strides, scale_log2, MASK_M, MASK_N, NEGATIVE, PRECISION
    )
    largest = _largest(scores)  # (BLOCK_M,)
    if bias_head is None:
        # The scale is positive, so it commutes with the maximum, and scale and subtraction are one fused operation.
        largest = largest * scale_log2
    new_max = tl.maximum(row_max, largest)
    if not FIRST:
        rescale = tl.exp2(row_max - new_max)  # (BLOCK_M,)
        acc = scaled_rows(acc, rescale[:, None])
        row_sum = row_sum * rescale
    acc, row_sum = _add_weighted(
        acc, row_sum, scores, group, query, bias_head, seed_ptr, heads[4], numbers, new_max, PRECISION
    )
    return acc, new_max, row_sum, seen


@triton.jit
def _scores(
    seen,
    group,
    query,
    bias_head,
    mask_row,
    strides,
    scale_log2,
    MASK_M: tl.constexpr,
    MASK_N: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return for each tile of a group its scores, with a bias in units of log2, and whether a key was seen."""
    q, m, inside_m = query
    k, _, n, allowed = group[0]
    LAST: tl.constexpr = len(group) == 1
    MASKED: tl.constexpr = (MASK_N and LAST) or (mask_row is not None)
    scores = row_products(q, k, PRECISION)  # (BLOCK_M, keys of the tile)
    if NEGATIVE:
        scores = -scores
    if MASKED:
        # A row of zeros has score 0; -inf gives it no weight.
        scores = tl.where(allowed[None, :], scores, float("-inf"))
    if bias_head is not None:
        inside = inside_m[:, None] & allowed[None, :]
        bias = load_bias(
            bias_head, m.to(tl.int64)[:, None], n.to(tl.int64)[None, :], strides[4], strides[5], inside,
            MASK_M or MASKED,
        )  # fmt: skip
        if bias_head.dtype.element_ty != tl.float16:
            # Times log2(e), the least finite number, with which masks hide keys, would be -inf, and a row of it NaN.
            least = tl.maximum(bias, LEAST_BIAS, propagate_nan=tl.PropagateNan.ALL)
            bias = tl.where(bias == float("-inf"), bias, least)
        scores = scores * scale_log2 + bias * LOG2_E
        seen = tl.maximum(seen, tl.max(((bias != float("-inf")) & allowed[None, :]).to(tl.int32), axis=1))
    elif MASKED:
        seen = tl.maximum(seen, tl.max(allowed.to(tl.int32), axis=0))
    else:
        seen = seen | 1
    if LAST:
        return (scores,), seen
    else:
        others, seen = _scores(
            seen, group[1:], query, bias_head, mask_row, strides, scale_log2, MASK_M, MASK_N, NEGATIVE, PRECISION
        )
        return (scores,) + others, seen


@triton.jit
def _largest(scores):
    """Return each row's largest score, (BLOCK_M,)."""
    largest = tl.max(scores[0], axis=1)
    if len(scores) == 1:
        return largest
    else:
        return tl.maximum(largest, _largest(scores[1:]))


@triton.jit
def _add_weighted(
    acc,
    row_sum,
    scores,
    group,
    query,
    bias_head,
    seed_ptr,
    batch_head,
    numbers,
    new_max,
    PRECISION: tl.constexpr,
):
    """Add the weights of each tile of a group to their sum, and the values so weighted to the output."""
    _, v, n, _ = group[0]
    _, m, _ = query
    scale_log2, threshold, _ = numbers
    if bias_head is None:
        weights = tl.exp2(scores[0] * scale_log2 - new_max[:, None])  # (BLOCK_M, keys of the tile), at most 1
    else:
        weights = tl.exp2(scores[0] - new_max[:, None])
    row_sum += tl.sum(weights, axis=1)
    if seed_ptr is not None:
        # After the sum: the softmax is that of all keys.
        weights = tl.where(dropout_kept(seed_ptr, batch_head, m[:, None], n[None, :], threshold), weights, 0.0)
    # The tensor cores take both factors in one dtype; the sum stays float32.
    acc = add_products(acc, weights.to(v[0].dtype), v, PRECISION)
    if len(group) == 1:
        return acc, row_sum
    else:
        return _add_weighted(
            acc, row_sum, scores[1:], group[1:], query, bias_head, seed_ptr, batch_head, numbers, new_max, PRECISION
        )


@triton.jit
def store_query(
    sums, query, heads, lse_head, strides, numbers, first_query, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, MASK_M: tl.constexpr, EMPTY: tl.constexpr,
):  # fmt: skip
    """Store the rows of out and lse of a tile, of out alone where lse is None.

    EMPTY says whether a query may have no key to look at.
    """
    acc, row_max, row_sum, seen = sums
    _, m, inside_m = query
    _, _, _, out_head, _ = heads
    if EMPTY:
        # A query that may look at no key has zeros, and not the NaN of 0 / 0.
        row_sum = tl.where(seen > 0, row_sum, 1.0)
    if lse_head is not None:
        # ln(2) turns the log2 units of the scores into the natural logarithm that lse is.
        lse = (row_max + tl.log2(row_sum)) * LN_2  # (BLOCK_M,)
        if EMPTY:
            lse = tl.where(seen > 0, lse, float("-inf"))
    out = scaled_rows(acc, (numbers[2] / row_sum)[:, None])
    base = out_head + tl.cast(first_query, tl.int64) * strides[3]
    store_rows(base, tl.arange(0, BLOCK_M).to(tl.int64), strides[3], inside_m, out, HEAD_DIM, DIM, MASK_M)
    if lse_head is not None:
        if MASK_M:
            tl.store(lse_head + m, lse, mask=inside_m)
        else:
            tl.store(lse_head + m, lse)
