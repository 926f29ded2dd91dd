# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The backward for few keys: one program does a whole head, in one launch.

Mathematics and memory as in backward.py. All keys and values of the head stay on the chip, and so do dk and dv; the
queries pass by once, tile by tile, each read once and its rows of dq written once. That is five products instead of the
seven of the split backward, one recomputation of the weights instead of two, no delta in memory, and no atomics.

The keys are in tiles that add up to KEYS, as the columns of a row are in pieces: 257 keys are 256 + 16, where one power
of two would be 512.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import (
    NOT_SPECIALIZED,
    add_products,
    head_of,
    image_and_head,
    in_elements,
    kept_rows,
    load_keys,
    load_rows,
    piece_width,
    reachable,
    row_dots,
    row_products,
    rows_of_tile,
    scaled_rows,
    slopes,
    store_rows,
    zero_rows,
)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def attention_backward_whole_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    dout_ptr,
    lse_ptr,
    dlse_ptr,  # None when lse has no gradient
    dq_ptr,
    dk_ptr,
    dv_ptr,
    bias_ptr,
    key_mask_ptr,
    seed_ptr,
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
    dkv_stride_b,
    dkv_stride_n,
    dkv_stride_h,
    bias_stride_b,
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    num_queries,
    num_keys,
    scale,
    scale_log2,
    threshold,
    dropout_scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    KEYS: tl.constexpr,  # at least num_keys; no tile but the last reaches past them
    BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr,  # whether the last tile of queries is not full
    FULL_M: tl.constexpr,  # whether there is a full one
    MASK_N: tl.constexpr,  # whether KEYS are more than there are
    NEGATIVE: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dq, dk and dv of one head; grid (B * H)."""
    batch, head, batch_head = image_and_head(tl.program_id(0), num_heads)
    q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
    k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
    v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
    dout_strides = in_elements(dout_stride_b, dout_stride_n, dout_stride_h, STRIDE_UNIT)
    q_head = head_of(q_ptr, q_strides, batch, 0, head)
    k_head = head_of(k_ptr, k_strides, batch, 0, head)
    v_head = head_of(v_ptr, v_strides, batch, 0, head)
    dout_head = head_of(dout_ptr, dout_strides, batch, 0, head)
    out_head = out_ptr + (batch * num_queries * num_heads + head) * HEAD_DIM
    dq_strides = in_elements(dq_stride_b, dq_stride_n, dq_stride_h, 8)
    dq_head = head_of(dq_ptr, dq_strides, batch, 0, head)
    dkv_strides = in_elements(dkv_stride_b, dkv_stride_n, dkv_stride_h, 8)
    dk_head = head_of(dk_ptr, dkv_strides, batch, 0, head)
    dv_head = head_of(dv_ptr, dkv_strides, batch, 0, head)
    statistics = batch_head * num_queries
    dlse_head = dlse_ptr
    if dlse_ptr is not None:
        dlse_head = dlse_ptr + statistics
    bias_head = bias_ptr
    if bias_ptr is not None:
        bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
    mask_row = key_mask_ptr
    if key_mask_ptr is not None:
        mask_row = key_mask_ptr + batch * num_keys

    tiles = load_keys(k_head, v_head, mask_row, k_strides[1], v_strides[1], 0, num_keys, HEAD_DIM, DIM, KEYS, MASK_N)
    sums = _zero_keys(DIM, KEYS)
    heads = (q_head, out_head, dout_head, lse_ptr + statistics, dq_head)
    strides = (q_strides[1], num_heads * HEAD_DIM, dout_strides[1], dq_strides[1], bias_stride_m, bias_stride_n)
    numbers = (scale_log2, threshold, dropout_scale)
    rows = _load_rows(heads, dlse_head, strides, 0, num_queries, HEAD_DIM, DIM, BLOCK_M, MASK_M, FULL_M)
    query = _query(rows, bias_ptr is not None)
    # Every tile of queries is masked: a second body for the last one would cost more registers than the mask.
    for start in range(0, num_queries, BLOCK_M):
        sums, rows = _add_queries(
            query, sums, tiles, heads, dlse_head, bias_head, mask_row, seed_ptr, batch_head, strides, numbers, scale,
            start, num_queries, HEAD_DIM, DIM, BLOCK_M, MASK_M, FULL_M, MASK_N, NEGATIVE, PRECISION,
        )  # fmt: skip
        query = _query(rows, bias_ptr is not None)
    _store_keys(dk_head, dv_head, dkv_strides[1], tiles, sums, mask_row, num_keys, scale, HEAD_DIM, DIM, KEYS)


@triton.jit
def _zero_keys(DIM: tl.constexpr, KEYS: tl.constexpr):
    """Return for each tile of keys the zeros that dk and dv start from."""
    WIDTH: tl.constexpr = piece_width(KEYS)
    pair = (zero_rows(WIDTH, DIM), zero_rows(WIDTH, DIM))
    if WIDTH == KEYS:
        return (pair,)
    else:
        return (pair,) + _zero_keys(DIM, KEYS - WIDTH)


@triton.jit
def _store_keys(
    dk_head,
    dv_head,
    stride,
    tiles,
    sums,
    mask_row,
    num_keys,
    scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    KEYS: tl.constexpr,
    START: tl.constexpr = 0,
):
    WIDTH: tl.constexpr = piece_width(KEYS - START)
    MASKED: tl.constexpr = START + WIDTH == KEYS
    _, _, n, allowed = tiles[0]
    dk, dv = sums[0]
    dk = scaled_rows(dk, scale)
    if mask_row is not None:
        # A weight of 0 times a NaN in dout would be NaN, in rows that nobody looks at.
        dk = kept_rows(dk, allowed)
        dv = kept_rows(dv, allowed)
    store_rows(dk_head, n.to(tl.int64), stride, n < num_keys, dk, HEAD_DIM, DIM, MASKED)
    store_rows(dv_head, n.to(tl.int64), stride, n < num_keys, dv, HEAD_DIM, DIM, MASKED)
    if START + WIDTH < KEYS:
        _store_keys(
            dk_head, dv_head, stride, tiles[1:], sums[1:], mask_row, num_keys, scale, HEAD_DIM, DIM, KEYS, START + WIDTH
        )


@triton.jit
def _load_rows(
    heads, dlse_head, strides, start, num_queries, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr, FULL_M: tl.constexpr,
):  # fmt: skip
    """Return the rows of q, dout and out of a tile of queries, and their lse and its gradient."""
    q_head, out_head, dout_head, lse_head, _ = heads
    q_stride, out_stride, dout_stride, _, _, _ = strides
    first, offsets, _m, own = rows_of_tile(start, num_queries, BLOCK_M, MASK_M, FULL_M)
    q = load_rows(q_head + first * q_stride, offsets, q_stride, own, HEAD_DIM, DIM, False)
    dout = load_rows(dout_head + first * dout_stride, offsets, dout_stride, own, HEAD_DIM, DIM, False)
    out = load_rows(out_head + first * out_stride, offsets, out_stride, own, HEAD_DIM, DIM, False)
    lse = tl.load(lse_head + first + offsets)  # (BLOCK_M,)
    if MASK_M:
        lse = tl.where(own, lse, float("inf"))
    dlse = tl.zeros_like(lse)
    if dlse_head is not None:
        dlse = tl.load(dlse_head + first + offsets)
    return q, dout, out, lse, dlse


@triton.jit
def _query(rows, WITH_BIAS: tl.constexpr):
    """Return what the products need of these rows: q, dout, lse and delta."""
    q, dout, out, lse, dlse = rows
    # float32 before the product: dS subtracts delta from a sum of the same size, and a rounding here would remain.
    delta = row_dots(out, dout) - dlse
    if WITH_BIAS:
        delta = reachable(delta, lse)
    return q, dout, lse, delta


@triton.jit
def _add_queries(
    query,
    sums,
    tiles,
    heads,
    dlse_head,
    bias_head,
    mask_row,
    seed_ptr,
    batch_head,
    strides,
    numbers,
    scale,
    start,
    num_queries,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    MASK_M: tl.constexpr,
    FULL_M: tl.constexpr,
    MASK_N: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dq of BLOCK_M queries, and add what they give to dk and dv, the former not yet scaled."""
    q, dout, lse, delta = query
    _, _, _, _, dq_head = heads
    _, _, _, dq_stride, bias_stride_m, bias_stride_n = strides
    first, offsets, m, own = rows_of_tile(start, num_queries, BLOCK_M, MASK_M, FULL_M)
    after = (heads, dlse_head, strides, start + BLOCK_M if FULL_M else 0, num_queries)
    dq, sums, rows = _each_tile(
        zero_rows(BLOCK_M, DIM), sums, tiles, (q, dout, lse, delta, m), after, bias_head, mask_row, seed_ptr,
        batch_head, (bias_stride_m, bias_stride_n), numbers,
        HEAD_DIM, DIM, BLOCK_M, FULL_M, MASK_N, True, NEGATIVE, PRECISION,
    )  # fmt: skip
    dq_tile = dq_head + first * dq_stride
    store_rows(dq_tile, offsets, dq_stride, own, scaled_rows(dq, scale), HEAD_DIM, DIM, MASK_M)
    return sums, rows


@triton.jit
def _each_tile(
    dq,
    sums,
    tiles,
    query,
    after,
    bias_head,
    mask_row,
    seed_ptr,
    batch_head,
    bias_strides,
    numbers,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    FULL_M: tl.constexpr,
    MASK_N: tl.constexpr,
    AHEAD: tl.constexpr,  # whether to load the rows of the queries after these
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Let the queries meet the keys tile by tile; keys go down and queries across."""
    q, dout, lse, delta, m = query
    k, v, n, allowed = tiles[0]
    dk, dv = sums[0]
    LAST: tl.constexpr = len(tiles) == 1
    weights, dscores = slopes(
        row_products(k, q, PRECISION),  # (WIDTH, BLOCK_M)
        row_products(v, dout, PRECISION),  # (WIDTH, BLOCK_M)
        lse[None, :], delta[None, :], m.to(tl.int64)[None, :], n.to(tl.int64)[:, None], allowed[:, None],
        bias_head, seed_ptr, batch_head, bias_strides, numbers, LAST and MASK_N, mask_row is not None, NEGATIVE,
    )  # fmt: skip
    # The tensor cores take both factors in one dtype; the sums stay float32.
    dv = add_products(dv, weights.to(dout[0].dtype), dout, PRECISION)
    rows = ()
    if AHEAD:
        # They are on their way while this one is computed: a multiprocessor has no other program to turn to. Not
        # before the scores have left the registers, where there is no room for both. After the last tile it is rows
        # that exist, and that nobody uses.
        heads, dlse_head, strides, start, num_queries = after
        rows = _load_rows(heads, dlse_head, strides, start, num_queries, HEAD_DIM, DIM, BLOCK_M, True, FULL_M)
    dscores = dscores.to(q[0].dtype)
    dk = add_products(dk, dscores, q, PRECISION)
    dq = add_products(dq, tl.trans(dscores), k, PRECISION)
    if LAST:
        return dq, ((dk, dv),), rows
    else:
        dq, others, _ = _each_tile(
            dq, sums[1:], tiles[1:], query, after, bias_head, mask_row, seed_ptr, batch_head, bias_strides, numbers,
            HEAD_DIM, DIM, BLOCK_M, FULL_M, MASK_N, False, NEGATIVE, PRECISION,
        )  # fmt: skip
        return dq, ((dk, dv),) + others, rows
