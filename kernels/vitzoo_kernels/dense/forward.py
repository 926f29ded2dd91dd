# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The forward kernel: out = dropout(softmax(q k^T * scale + bias)) v, one tile of queries at a time.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 1, in softmax.py.
Memory: q (B, N_q, H, D) and k, v (B, N_k, H, D) with any strides whose last is 1; out (B, N_q, H, D) contiguous;
lse (B, H, N_q) contiguous, float32, natural logarithm. Packed sequences lie one after the other in one image, B = 1,
and `cu_q`, `cu_k` say where each begins. What comes after the last is taken for one more, which gets zeros.

A program owns the queries of one tile of one head: their rows of out and lse. It reads all keys and values of that
head. Tokens rarely fill tiles: 197 = 3 * 64 + 5. So full tiles are computed without any mask, and what is left over has
tiles of its own, TAIL_M queries and TAIL_N keys: the smallest power of two from 16 that holds it, and of more than 64
keys several tiles at once, 80 being 64 and 16. Where one tile holds all queries, a program does PER_PROGRAM heads one
after the other.
Nothing is kept for the backward but lse, from which it recomputes the weights.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.softmax import add_group, load_query, store_query, zero_sums
from vitzoo_kernels.dense.tiles import (
    NOT_SPECIALIZED,
    fill_unowned,
    head_of,
    image_and_head,
    in_elements,
    load_keys,
    locate,
    settled,
    unowned,
)


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
    sequences,  # how many are packed, or 0
    total_queries,  # of an image: num_queries, or with packed sequences all of them
    total_keys,
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
    SETTLED: tl.constexpr,  # whether a round of the loop waits for its products, see `settled`
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
    first_head = tl.program_id(0) // num_tiles * PER_PROGRAM
    for index in range(first_head, tl.minimum(first_head + PER_PROGRAM, batch_heads)):
        batch, head, batch_head = image_and_head(index, num_heads)
        image, first_query, rows = locate(cu_q_ptr, batch, sequences, num_queries, total_queries)
        _, first_key, keys = locate(cu_k_ptr, batch, sequences, num_keys, total_keys)
        q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
        k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
        v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
        q_head = head_of(q_ptr, q_strides, image, first_query, head)
        k_head = head_of(k_ptr, k_strides, image, first_key, head)
        v_head = head_of(v_ptr, v_strides, image, first_key, head)
        # Rows of out are H * D apart in a contiguous tensor.
        out_head = out_ptr + ((image * total_queries + first_query) * num_heads + head) * HEAD_DIM
        lse_head = lse_ptr
        if lse_ptr is not None:
            lse_head = lse_ptr + (image * num_heads + head) * total_queries + first_query
        bias_head = bias_ptr
        if bias_ptr is not None:
            bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
        mask_row = key_mask_ptr
        if key_mask_ptr is not None:
            mask_row = key_mask_ptr + batch * num_keys
        heads = (q_head, k_head, v_head, out_head, batch_head)
        strides = (q_strides[1], k_strides[1], v_strides[1], num_heads * HEAD_DIM, bias_stride_m, bias_stride_n)
        numbers = (scale_log2, threshold, dropout_scale)
        if FULL_M:
            if TAIL_M == 0 or TAIL_M == BLOCK_M:
                # The last tile ends with the last query and does some rows again, with the same result: no mask.
                first = tl.minimum(tile * BLOCK_M, rows - BLOCK_M)
                _attend(
                    heads, lse_head, bias_head, mask_row, seed_ptr, strides, numbers, first, rows, keys,
                    HEAD_DIM, DIM, BLOCK_M, False, BLOCK_N, FULL_N, TAIL_N, False, SETTLED, NEGATIVE, PRECISION,
                )  # fmt: skip
            elif tile < num_tiles - 1:
                _attend(
                    heads, lse_head, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, BLOCK_M, False, BLOCK_N, FULL_N, TAIL_N, False, SETTLED, NEGATIVE, PRECISION,
                )  # fmt: skip
            else:
                _attend(
                    heads, lse_head, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, TAIL_M, True, BLOCK_N, FULL_N, TAIL_N, False, SETTLED, NEGATIVE, PRECISION,
                )  # fmt: skip
        elif cu_q_ptr is None:
            _attend(
                heads, lse_head, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                HEAD_DIM, DIM, TAIL_M, True, BLOCK_N, FULL_N, TAIL_N, False, SETTLED, NEGATIVE, PRECISION,
            )  # fmt: skip
        else:
            is_sequence = batch < sequences
            fill_unowned(out_head, num_heads * HEAD_DIM, tile, num_tiles, rows, is_sequence, HEAD_DIM, DIM, BLOCK_M)
            if lse_ptr is not None:
                for start in range(unowned(tile, num_tiles, is_sequence, BLOCK_M), rows, num_tiles * BLOCK_M):
                    these = start + tl.arange(0, BLOCK_M)
                    # The lse of a query without keys, or of a wrong call.
                    tl.store(lse_head + these, tl.where(is_sequence, float("nan"), float("-inf")), mask=these < rows)
            if is_sequence & (tile * BLOCK_M < rows):
                _attend(
                    heads, lse_head, bias_head, mask_row, seed_ptr, strides, numbers, tile * BLOCK_M, rows, keys,
                    HEAD_DIM, DIM, TAIL_M, True, BLOCK_N, FULL_N, TAIL_N, True, SETTLED, NEGATIVE, PRECISION,
                )  # fmt: skip


@triton.jit
def _attend(
    heads,
    lse_head,
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
    SETTLED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the rows of BLOCK_M queries, while the keys pass by."""
    query = load_query(heads, strides, first_query, num_queries, HEAD_DIM, DIM, BLOCK_M, MASK_M)
    sums = zero_sums(DIM, BLOCK_M)
    full_keys = num_keys // BLOCK_N * BLOCK_N
    if FULL_N:
        for start in range(0, full_keys, BLOCK_N):
            acc, row_max, row_sum, seen = _add_keys(
                sums, query, heads, bias_head, mask_row, seed_ptr, strides, numbers, start, num_keys,
                HEAD_DIM, DIM, MASK_M, BLOCK_N, False, NEGATIVE, PRECISION,
            )  # fmt: skip
            sums = (settled(acc, SETTLED), row_max, row_sum, seen)
    if TAIL_N > 0:
        if RAGGED:
            for start in range(full_keys, num_keys, TAIL_N):
                sums = _add_keys(
                    sums, query, heads, bias_head, mask_row, seed_ptr, strides, numbers, start, num_keys,
                    HEAD_DIM, DIM, MASK_M, TAIL_N, True, NEGATIVE, PRECISION,
                )  # fmt: skip
        else:
            sums = _add_keys(
                sums, query, heads, bias_head, mask_row, seed_ptr, strides, numbers, full_keys, num_keys,
                HEAD_DIM, DIM, MASK_M, TAIL_N, True, NEGATIVE, PRECISION,
            )  # fmt: skip
    EMPTY: tl.constexpr = (bias_head is not None) or (mask_row is not None) or RAGGED
    store_query(sums, query, heads, lse_head, strides, numbers, first_query, HEAD_DIM, DIM, BLOCK_M, MASK_M, EMPTY)


@triton.jit
def _add_keys(
    sums,
    query,
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    strides,
    numbers,
    start,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    MASK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASK_N: tl.constexpr,  # whether they reach past the last key
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Load BLOCK_N keys and add them to the sums."""
    _, k_head, v_head, _, _ = heads
    _, k_stride, v_stride, _, _, _ = strides
    group = load_keys(k_head, v_head, mask_row, k_stride, v_stride, start, num_keys, HEAD_DIM, DIM, BLOCK_N, MASK_N)
    return add_group(
        sums, group, query, heads, bias_head, mask_row, seed_ptr, strides, numbers,
        MASK_M, MASK_N, False, NEGATIVE, PRECISION,
    )  # fmt: skip
