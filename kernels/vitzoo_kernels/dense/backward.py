# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The backward for any length: dq and delta one tile of queries at a time, then dk and dv one tile of keys at a time.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 2, split in two so that each output row has one writer: no
atomics, and two runs give the same bits. With P = exp(scores - lse), the dropout's mask Z (0 or 1 / (1 - p)) and
delta_i = sum_d out_id dout_id - dlse_i:

    dv = (P Z)^T dout       dS = P * (Z * dout v^T - delta)       dq = scale * dS k       dk = scale * dS^T q

and the gradient of a bias is dS, summed over what the bias was broadcast over.

Memory: q, k, v as in the forward kernel; dout, dq, dk and dv (B, N, H, D) with any strides whose last is 1; out
contiguous; lse, dlse and delta (B, H, N_q) contiguous float32.
The kernels recompute the scores and the weights from q, k and lse: the matrix P is never in memory.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import (
    NOT_SPECIALIZED,
    add_products,
    fill_unowned,
    head_of,
    image_and_head,
    in_elements,
    kept_rows,
    load_rows,
    locate,
    reachable,
    row_dots,
    row_products,
    rows_of_tile,
    scaled_rows,
    settled,
    slopes,
    store_rows,
    zero_rows,
)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def attention_backward_q_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    dout_ptr,
    lse_ptr,
    dlse_ptr,  # None when lse has no gradient
    delta_ptr,
    dq_ptr,
    bias_ptr,
    key_mask_ptr,
    seed_ptr,
    cu_q_ptr,
    cu_k_ptr,
    q_stride_b,
    q_stride_n,
    q_stride_h,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    v_stride_b,
    v_stride_n,
    v_stride_h,
    dout_stride_b,
    dout_stride_n,
    dout_stride_h,
    dq_stride_b,  # of what vitzoo allocates itself: in units of 8, which divides every head dim
    dq_stride_n,
    dq_stride_h,
    bias_stride_b,
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    num_queries,
    num_keys,
    sequences,  # how many are packed, or 0
    total_queries,  # of an image: num_queries, or with packed sequences all of them
    total_keys,
    scale,
    scale_log2,
    threshold,
    dropout_scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FULL_N: tl.constexpr,
    TAIL_N: tl.constexpr,
    SETTLED: tl.constexpr,  # whether a round of a loop waits for its products, see `settled`
    NEGATIVE: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dq and delta of one tile of queries, reading all keys and values of its head."""
    num_tiles = tl.cdiv(num_queries, BLOCK_M)
    tile = tl.program_id(0) % num_tiles
    batch, head, batch_head = image_and_head(tl.program_id(0) // num_tiles, num_heads)
    image, first_query, rows = locate(cu_q_ptr, batch, sequences, num_queries, total_queries)
    _, first_key, keys = locate(cu_k_ptr, batch, sequences, num_keys, total_keys)

    q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
    k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
    v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
    dout_strides = in_elements(dout_stride_b, dout_stride_n, dout_stride_h, STRIDE_UNIT)
    q_head = head_of(q_ptr, q_strides, image, first_query, head)
    k_head = head_of(k_ptr, k_strides, image, first_key, head)
    v_head = head_of(v_ptr, v_strides, image, first_key, head)
    dout_head = head_of(dout_ptr, dout_strides, image, first_query, head)
    dq_strides = in_elements(dq_stride_b, dq_stride_n, dq_stride_h, 8)
    dq_head = head_of(dq_ptr, dq_strides, image, first_query, head)
    out_head = out_ptr + ((image * total_queries + first_query) * num_heads + head) * HEAD_DIM
    statistics = (image * num_heads + head) * total_queries + first_query

    if cu_q_ptr is not None:
        is_sequence = batch < sequences
        fill_unowned(dq_head, dq_strides[1], tile, num_tiles, rows, is_sequence, HEAD_DIM, DIM, BLOCK_M)
        if (tile * BLOCK_M >= rows) | (batch == sequences):
            return

    # m is (BLOCK_M,): rows past the last are the last one again, and are not stored.
    _, _, m, own = rows_of_tile(tile * BLOCK_M, rows, BLOCK_M, True, False)
    rows_m = m.to(tl.int64)
    q = load_rows(q_head, rows_m, q_strides[1], own, HEAD_DIM, DIM, False)
    dout = load_rows(dout_head, rows_m, dout_strides[1], own, HEAD_DIM, DIM, False)
    out = load_rows(out_head, rows_m, num_heads * HEAD_DIM, own, HEAD_DIM, DIM, False)
    lse = tl.load(lse_ptr + statistics + m)  # (BLOCK_M,)
    # float32 before the product: dS subtracts delta from a sum of the same size, and a rounding here would remain.
    delta = row_dots(out, dout)  # (BLOCK_M,)
    if dlse_ptr is not None:
        delta -= tl.load(dlse_ptr + statistics + m)
    if bias_ptr is not None:
        delta = reachable(delta, lse)
    tl.store(delta_ptr + statistics + m, delta, mask=own)

    bias_head = bias_ptr
    if bias_ptr is not None:
        bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
    mask_row = key_mask_ptr
    if key_mask_ptr is not None:
        mask_row = key_mask_ptr + batch * num_keys
    queries = (q, dout, lse, delta, m)
    heads = (k_head, v_head, k_strides[1], v_strides[1], batch_head)
    bias_strides = (bias_stride_m, bias_stride_n)
    numbers = (scale_log2, threshold, dropout_scale)
    dq = zero_rows(BLOCK_M, DIM)
    full_keys = keys // BLOCK_N * BLOCK_N
    if FULL_N:
        for start in range(0, full_keys, BLOCK_N):
            dq = _add_keys(
                dq, queries, heads, bias_head, mask_row, seed_ptr, bias_strides, numbers, start, keys,
                HEAD_DIM, DIM, BLOCK_N, False, NEGATIVE, PRECISION,
            )  # fmt: skip
            dq = settled(dq, SETTLED)
    if TAIL_N > 0:
        # With packed sequences there may be several tails, or none; else there is one.
        if cu_k_ptr is not None:
            for start in range(full_keys, keys, TAIL_N):
                dq = _add_keys(
                    dq, queries, heads, bias_head, mask_row, seed_ptr, bias_strides, numbers, start, keys,
                    HEAD_DIM, DIM, TAIL_N, True, NEGATIVE, PRECISION,
                )  # fmt: skip
                dq = settled(dq, SETTLED)
        else:
            dq = _add_keys(
                dq, queries, heads, bias_head, mask_row, seed_ptr, bias_strides, numbers, full_keys, keys,
                HEAD_DIM, DIM, TAIL_N, True, NEGATIVE, PRECISION,
            )  # fmt: skip
    store_rows(dq_head, rows_m, dq_strides[1], own, scaled_rows(dq, scale), HEAD_DIM, DIM, True)


@triton.jit
def _add_keys(
    dq,
    queries,
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    bias_strides,
    numbers,
    start,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASK_N: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what BLOCK_N keys give to dq, not yet scaled."""
    q, dout, lse, delta, m = queries
    k_head, v_head, k_stride, v_stride, batch_head = heads
    offsets = tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    n = start + offsets
    allowed = n < num_keys
    MASKED: tl.constexpr = MASK_N or (mask_row is not None)
    if mask_row is not None:
        allowed = allowed & (tl.load(mask_row + n, mask=allowed, other=0) != 0)
    first = tl.cast(start, tl.int64)
    k = load_rows(k_head + first * k_stride, offsets.to(tl.int64), k_stride, allowed, HEAD_DIM, DIM, MASKED)
    v = load_rows(v_head + first * v_stride, offsets.to(tl.int64), v_stride, allowed, HEAD_DIM, DIM, MASKED)
    _, dscores = slopes(
        row_products(q, k, PRECISION),  # (BLOCK_M, BLOCK_N)
        row_products(dout, v, PRECISION),  # (BLOCK_M, BLOCK_N)
        lse[:, None], delta[:, None], m.to(tl.int64)[:, None], n.to(tl.int64)[None, :], allowed[None, :],
        bias_head, seed_ptr, batch_head, bias_strides, numbers, MASK_N, mask_row is not None, NEGATIVE,
    )  # fmt: skip
    # The tensor cores take both factors in one dtype; the sum stays float32.
    return add_products(dq, dscores.to(k[0].dtype), k, PRECISION)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def attention_backward_kv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    dk_ptr,
    dv_ptr,
    bias_ptr,
    key_mask_ptr,
    seed_ptr,
    cu_q_ptr,
    cu_k_ptr,
    q_stride_b,
    q_stride_n,
    q_stride_h,
    k_stride_b,
    k_stride_n,
    k_stride_h,
    v_stride_b,
    v_stride_n,
    v_stride_h,
    dout_stride_b,
    dout_stride_n,
    dout_stride_h,
    dkv_stride_b,  # dk and dv lie alike
    dkv_stride_n,
    dkv_stride_h,
    bias_stride_b,
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    num_queries,
    num_keys,
    sequences,
    total_queries,
    total_keys,
    scale,
    scale_log2,
    threshold,
    dropout_scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FULL_M: tl.constexpr,
    TAIL_M: tl.constexpr,
    SETTLED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dk and dv of one tile of keys, reading all queries of its head; grid (B * H * number of tiles).

    The matrices are transposed, keys down and queries across, so that both sums over queries are plain products.
    """
    num_tiles = tl.cdiv(num_keys, BLOCK_N)
    tile = tl.program_id(0) % num_tiles
    batch, head, batch_head = image_and_head(tl.program_id(0) // num_tiles, num_heads)
    image, first_query, queries = locate(cu_q_ptr, batch, sequences, num_queries, total_queries)
    _, first_key, keys = locate(cu_k_ptr, batch, sequences, num_keys, total_keys)

    q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
    k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
    v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
    dout_strides = in_elements(dout_stride_b, dout_stride_n, dout_stride_h, STRIDE_UNIT)
    q_head = head_of(q_ptr, q_strides, image, first_query, head)
    k_head = head_of(k_ptr, k_strides, image, first_key, head)
    v_head = head_of(v_ptr, v_strides, image, first_key, head)
    dout_head = head_of(dout_ptr, dout_strides, image, first_query, head)
    dkv_strides = in_elements(dkv_stride_b, dkv_stride_n, dkv_stride_h, 8)
    dk_head = head_of(dk_ptr, dkv_strides, image, first_key, head)
    dv_head = head_of(dv_ptr, dkv_strides, image, first_key, head)
    statistics = (image * num_heads + head) * total_queries + first_query

    if cu_k_ptr is not None:
        is_sequence = batch < sequences
        fill_unowned(dk_head, dkv_strides[1], tile, num_tiles, keys, is_sequence, HEAD_DIM, DIM, BLOCK_N)
        fill_unowned(dv_head, dkv_strides[1], tile, num_tiles, keys, is_sequence, HEAD_DIM, DIM, BLOCK_N)
        if (tile * BLOCK_N >= keys) | (batch == sequences):
            return

    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    rows_n = n.to(tl.int64)
    inside_n = n < keys
    allowed = inside_n
    if key_mask_ptr is not None:
        allowed = inside_n & (tl.load(key_mask_ptr + batch * num_keys + n, mask=inside_n, other=0) != 0)
    bias_head = bias_ptr
    if bias_ptr is not None:
        bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
    k = load_rows(k_head, rows_n, k_strides[1], allowed, HEAD_DIM, DIM, True)
    v = load_rows(v_head, rows_n, v_strides[1], allowed, HEAD_DIM, DIM, True)

    own = (k, v, n, allowed)
    heads = (q_head, dout_head, lse_ptr + statistics, delta_ptr + statistics, q_strides[1], dout_strides[1], batch_head)
    bias_strides = (bias_stride_m, bias_stride_n)
    numbers = (scale_log2, threshold, dropout_scale)
    dk = zero_rows(BLOCK_N, DIM)
    dv = zero_rows(BLOCK_N, DIM)
    full_queries = queries // BLOCK_M * BLOCK_M
    if FULL_M:
        for start in range(0, full_queries, BLOCK_M):
            dk, dv = _add_queries(
                dk, dv, own, heads, bias_head, seed_ptr, bias_strides, numbers, start, queries,
                HEAD_DIM, DIM, BLOCK_M, False, FULL_M, key_mask_ptr is not None, NEGATIVE, PRECISION,
            )  # fmt: skip
            dk, dv = settled(dk, SETTLED), settled(dv, SETTLED)
    if TAIL_M > 0:
        if cu_q_ptr is not None:
            for start in range(full_queries, queries, TAIL_M):
                dk, dv = _add_queries(
                    dk, dv, own, heads, bias_head, seed_ptr, bias_strides, numbers, start, queries,
                    HEAD_DIM, DIM, TAIL_M, True, False, False, NEGATIVE, PRECISION,
                )  # fmt: skip
                dk, dv = settled(dk, SETTLED), settled(dv, SETTLED)
        else:
            dk, dv = _add_queries(
                dk, dv, own, heads, bias_head, seed_ptr, bias_strides, numbers, full_queries, queries,
                HEAD_DIM, DIM, TAIL_M, True, FULL_M, key_mask_ptr is not None, NEGATIVE, PRECISION,
            )  # fmt: skip
    dk = scaled_rows(dk, scale)
    if key_mask_ptr is not None:
        # A weight of 0 times a NaN in dout would be NaN, in rows that nobody looks at.
        dk = kept_rows(dk, allowed)
        dv = kept_rows(dv, allowed)
    store_rows(dk_head, rows_n, dkv_strides[1], inside_n, dk, HEAD_DIM, DIM, True)
    store_rows(dv_head, rows_n, dkv_strides[1], inside_n, dv, HEAD_DIM, DIM, True)


@triton.jit
def _add_queries(
    dk,
    dv,
    own,
    heads,
    bias_head,
    seed_ptr,
    bias_strides,
    numbers,
    start,
    num_queries,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr,
    FULL_M: tl.constexpr,  # whether there are at least BLOCK_M queries
    KEY_MASK: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what BLOCK_M queries give to dv and to dk, the latter not yet scaled."""
    k, v, n, allowed = own
    q_head, dout_head, lse_head, delta_head, q_stride, dout_stride, batch_head = heads
    first, rows, m, own = rows_of_tile(start, num_queries, BLOCK_M, MASK_M, FULL_M)
    q = load_rows(q_head + first * q_stride, rows, q_stride, own, HEAD_DIM, DIM, False)
    dout = load_rows(dout_head + first * dout_stride, rows, dout_stride, own, HEAD_DIM, DIM, False)
    lse = tl.load(lse_head + m)  # (BLOCK_M,)
    delta = tl.load(delta_head + m)  # (BLOCK_M,)
    if MASK_M:
        lse = tl.where(own, lse, float("inf"))
    # Keys past the last are not masked: what they compute is not stored.
    weights, dscores = slopes(
        row_products(k, q, PRECISION),  # (BLOCK_N, BLOCK_M)
        row_products(v, dout, PRECISION),  # (BLOCK_N, BLOCK_M)
        lse[None, :], delta[None, :], m.to(tl.int64)[None, :], n.to(tl.int64)[:, None], allowed[:, None],
        bias_head, seed_ptr, batch_head, bias_strides, numbers, False, KEY_MASK, NEGATIVE,
    )  # fmt: skip
    # The tensor cores take both factors in one dtype; the sum stays float32.
    dv = add_products(dv, weights.to(dout[0].dtype), dout, PRECISION)
    dk = add_products(dk, dscores.to(q[0].dtype), q, PRECISION)
    return dk, dv
