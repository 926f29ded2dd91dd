# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The forward kernel: out = dropout(softmax(q k^T * scale + bias)) v, one tile of queries at a time.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 1. The softmax is online: running maximum and sum a row.
Memory: q (B, N_q, H, D) and k, v (B, N_k, H, D) with any strides whose last is 1; out (B, N_q, H, D) contiguous;
lse (B, H, N_q) contiguous, float32, natural logarithm. Packed sequences lie one after the other in one image, B = 1,
and `cu_q`, `cu_k` say where each begins.

A program owns the queries of one tile of one head: their rows of out and lse. It reads all keys and values of that
head. Tokens rarely fill tiles: 197 = 3 * 64 + 5. So full tiles are computed without any mask, and what is left over has
tiles of its own, TAIL_M queries and TAIL_N keys, each the smallest power of two from 16 that holds it. Where one tile
holds all queries, a program does PER_PROGRAM heads one after the other.
Nothing is kept for the backward but lse, from which it recomputes the weights.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import (
    LOG2_E,
    NOT_SPECIALIZED,
    add_products,
    dropout_kept,
    head_of,
    in_elements,
    load_bias,
    load_rows,
    locate,
    row_products,
    scaled_rows,
    store_rows,
    zero_rows,
)

# Below any finite score, yet finite: while a row has seen only -inf scores, (-inf) - LOWEST is -inf, not NaN.
LOWEST = tl.constexpr(-3.4028234663852886e38)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def attention_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    bias_ptr,  # None without a bias
    key_mask_ptr,  # (B, N_k) uint8, contiguous, or None
    seed_ptr,  # (2,) int64: seed and offset of the dropout, or None
    cu_q_ptr,  # (B + 1,) int32: where each packed sequence begins, or None
    cu_k_ptr,
    # In units of STRIDE_UNIT elements: with a unit of 8 the compiler knows that rows of D = 72 start on 16 bytes.
    q_stride_b,
    q_stride_n,
    q_stride_h,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    v_stride_b,
    v_stride_n,
    v_stride_h,
    bias_stride_b,  # in elements; 0 where the bias is broadcast
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    batch_heads,
    num_queries,  # with packed sequences: the longest
    num_keys,
    total_queries,  # of an image: num_queries, or with packed sequences the sum of their lengths
    # |scale| * log2(e), so that exp(x * scale) is exp2(x * scale_log2): the hardware has exp2 only. Never 0.
    scale_log2,
    threshold,  # of the dropout, share * 2^31
    dropout_scale,  # 1 / (1 - share)
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,  # the head dim rounded up to 16
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FULL_M: tl.constexpr,  # whether there is a full tile of queries
    TAIL_M: tl.constexpr,  # queries in the tile of what is left over, or 0
    FULL_N: tl.constexpr,
    TAIL_N: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    NEGATIVE: tl.constexpr,  # whether the scale is
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out and lse of one tile of queries; grid (B * H / PER_PROGRAM * number of tiles)."""
    # One grid axis, as only the first may pass 65,535; tiles of one head are neighbours and share its keys in L2.
    num_tiles = num_queries // BLOCK_M
    if TAIL_M > 0:
        num_tiles += 1
    tile = tl.program_id(0) % num_tiles
    # int64 from here on: offsets pass 2^31 elements in large batches.
    first_head = (tl.program_id(0) // num_tiles).to(tl.int64) * PER_PROGRAM
    for batch_head in range(first_head, tl.minimum(first_head + PER_PROGRAM, batch_heads)):
        batch = batch_head // num_heads
        head = batch_head % num_heads
        image, first_query, rows = locate(cu_q_ptr, batch, num_queries)
        _, first_key, keys = locate(cu_k_ptr, batch, num_keys)
        q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
        k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
        v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
        q_head = head_of(q_ptr, q_strides, image, first_query, head)
        k_head = head_of(k_ptr, k_strides, image, first_key, head)
        v_head = head_of(v_ptr, v_strides, image, first_key, head)
        # Rows of out are H * D apart in a contiguous tensor.
        out_head = out_ptr + ((image * total_queries + first_query) * num_heads + head) * HEAD_DIM
        lse_head = lse_ptr + (image * num_heads + head) * total_queries + first_query
        bias_head = bias_ptr
        if bias_ptr is not None:
            bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
        mask_row = key_mask_ptr
        if key_mask_ptr is not None:
            mask_row = key_mask_ptr + batch * num_keys
        heads = (q_head, k_head, v_head, out_head, lse_head, batch_head)
        strides = (q_strides[1], k_strides[1], v_strides[1], num_heads * HEAD_DIM, bias_stride_m, bias_stride_n)
        numbers = (scale_log2, threshold, dropout_scale)
        if FULL_M:
            if TAIL_M == 0:
                _attend(
                    heads, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, BLOCK_M, False, BLOCK_N, FULL_N, TAIL_N, False, NEGATIVE, PRECISION,
                )  # fmt: skip
            elif tile < num_tiles - 1:
                _attend(
                    heads, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, BLOCK_M, False, BLOCK_N, FULL_N, TAIL_N, False, NEGATIVE, PRECISION,
                )  # fmt: skip
            else:
                _attend(
                    heads, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, TAIL_M, True, BLOCK_N, FULL_N, TAIL_N, False, NEGATIVE, PRECISION,
                )  # fmt: skip
        elif tile * BLOCK_M < rows:
            _attend(
                heads, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                HEAD_DIM, DIM, TAIL_M, True, BLOCK_N, FULL_N, TAIL_N, cu_q_ptr is not None, NEGATIVE, PRECISION,
            )  # fmt: skip


@triton.jit
def _attend(
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    strides,
    numbers,
    first_query,
    num_queries,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr,  # whether the tile reaches past the last query
    BLOCK_N: tl.constexpr,
    FULL_N: tl.constexpr,
    TAIL_N: tl.constexpr,
    RAGGED: tl.constexpr,  # lengths are known on the GPU alone
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the rows of BLOCK_M queries."""
    q_head, _, _, out_head, lse_head, _ = heads
    q_stride, _, _, out_stride, _, _ = strides
    m = first_query + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    inside_m = m < num_queries
    q = load_rows(q_head, m.to(tl.int64), q_stride, inside_m, HEAD_DIM, DIM, MASK_M)
    state = (
        zero_rows(BLOCK_M, DIM),
        tl.full((BLOCK_M,), LOWEST, tl.float32),
        tl.zeros((BLOCK_M,), tl.float32),
        tl.zeros((BLOCK_M,), tl.int32),
    )
    full_keys = num_keys // BLOCK_N * BLOCK_N
    if FULL_N:
        for start in range(0, full_keys, BLOCK_N):
            state = _add_keys(
                heads, bias_head, mask_row, seed_ptr, strides, numbers, q, state, m, inside_m, start, num_keys,
                HEAD_DIM, DIM, MASK_M, BLOCK_N, False, NEGATIVE, PRECISION,
            )  # fmt: skip
    if TAIL_N > 0:
        if RAGGED:
            for start in range(full_keys, num_keys, TAIL_N):
                state = _add_keys(
                    heads, bias_head, mask_row, seed_ptr, strides, numbers, q, state, m, inside_m, start, num_keys,
                    HEAD_DIM, DIM, MASK_M, TAIL_N, True, NEGATIVE, PRECISION,
                )  # fmt: skip
        else:
            state = _add_keys(
                heads, bias_head, mask_row, seed_ptr, strides, numbers, q, state, m, inside_m, full_keys, num_keys,
                HEAD_DIM, DIM, MASK_M, TAIL_N, True, NEGATIVE, PRECISION,
            )  # fmt: skip

    acc, row_max, row_sum, seen = state
    EMPTY: tl.constexpr = (bias_head is not None) or (mask_row is not None) or RAGGED
    if EMPTY:
        # A query that may look at no key has zeros, and not the NaN of 0 / 0.
        row_sum = tl.where(seen > 0, row_sum, 1.0)
    # ln(2) turns the log2 units of the loop into the natural logarithm that lse is.
    lse = (row_max + tl.log2(row_sum)) * LN_2  # (BLOCK_M,)
    if EMPTY:
        lse = tl.where(seen > 0, lse, float("-inf"))
    factor = numbers[2] / row_sum
    store_rows(out_head, m.to(tl.int64), out_stride, inside_m, scaled_rows(acc, factor[:, None]), HEAD_DIM, DIM, MASK_M)
    if MASK_M:
        tl.store(lse_head + m, lse, mask=inside_m)
    else:
        tl.store(lse_head + m, lse)


@triton.jit
def _add_keys(
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    strides,
    numbers,
    q,
    state,
    m,
    inside_m,
    start,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    MASK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASK_N: tl.constexpr,  # whether the tile reaches past the last key
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add BLOCK_N keys to the running sums: unnormalised output, maximum, sum, and whether a key was seen at all."""
    acc, row_max, row_sum, seen = state
    _, k_head, v_head, _, _, batch_head = heads
    _, k_stride, v_stride, _, bias_stride_m, bias_stride_n = strides
    scale_log2, threshold, _ = numbers
    offsets = tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    n = start + offsets
    allowed = n < num_keys
    MASKED: tl.constexpr = MASK_N or (mask_row is not None)
    if mask_row is not None:
        allowed = allowed & (tl.load(mask_row + n, mask=allowed, other=0) != 0)
    # The base moves and the offsets stay, so that only one addition is left in the loop. Rows that nobody may look at
    # load 0: their weight is 0, but 0 times what lies there could be NaN.
    first = tl.cast(start, tl.int64)
    k = load_rows(k_head + first * k_stride, offsets.to(tl.int64), k_stride, allowed, HEAD_DIM, DIM, MASKED)
    v = load_rows(v_head + first * v_stride, offsets.to(tl.int64), v_stride, allowed, HEAD_DIM, DIM, MASKED)

    scores = row_products(q, k, PRECISION)  # (BLOCK_M, BLOCK_N)
    if NEGATIVE:
        scores = -scores
    if MASKED:
        # A row of zeros has score 0; -inf gives it no weight.
        scores = tl.where(allowed[None, :], scores, float("-inf"))
    if bias_head is not None:
        inside = inside_m[:, None] & allowed[None, :]
        bias = load_bias(
            bias_head, m.to(tl.int64)[:, None], n.to(tl.int64)[None, :], bias_stride_m, bias_stride_n, inside,
            MASK_M or MASKED,
        )  # fmt: skip
        scores = scores * scale_log2 + bias * LOG2_E
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))  # (BLOCK_M,)
        weights = tl.exp2(scores - new_max[:, None])  # (BLOCK_M, BLOCK_N), at most 1
        seen = tl.maximum(seen, tl.max(((bias != float("-inf")) & allowed[None, :]).to(tl.int32), axis=1))
    else:
        # The scale is positive, so it commutes with the maximum, and scale and subtraction are one fused operation.
        new_max = tl.maximum(row_max, tl.max(scores, axis=1) * scale_log2)  # (BLOCK_M,)
        weights = tl.exp2(scores * scale_log2 - new_max[:, None])  # (BLOCK_M, BLOCK_N), at most 1
        if MASKED:
            seen = tl.maximum(seen, tl.max(allowed.to(tl.int32), axis=0))
        else:
            seen = seen | 1
    rescale = tl.exp2(row_max - new_max)  # (BLOCK_M,)
    row_sum = row_sum * rescale + tl.sum(weights, axis=1)
    if seed_ptr is not None:
        # After the sum: the softmax is that of all keys.
        weights = tl.where(dropout_kept(seed_ptr, batch_head, m[:, None], n[None, :], threshold), weights, 0.0)
    # The tensor cores take both factors in one dtype; the sum stays float32.
    acc = add_products(scaled_rows(acc, rescale[:, None]), weights.to(v[0].dtype), v, PRECISION)
    return acc, new_max, row_sum, seen
