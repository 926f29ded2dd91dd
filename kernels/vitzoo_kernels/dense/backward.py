# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The backward kernels: delta, then dk and dv one tile of keys at a time, then dq one tile of queries at a time.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 2, split in two so that each output row has one writer: no
atomics, and two runs give the same bits. With P = exp(scores - lse) and delta_i = sum_d out_id dout_id - dlse_i:

    dv = P^T dout        dS = P * (dout v^T - delta)        dq = scale * dS k        dk = scale * dS^T q

Memory: q, k, v as in the forward kernel; dout (B, N_q, H, D) with any strides whose last is 1; out, dq, dk and dv
contiguous; lse, dlse and delta (B, H, N_q) contiguous float32.
Both large kernels recompute the scores and the weights from q, k and lse: the matrix P is never in memory.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["num_heads", "num_queries"])
def attention_delta_kernel(
    out_ptr,
    dout_ptr,
    dlse_ptr,
    delta_ptr,
    dout_stride_b,  # strides are in units of STRIDE_UNIT elements, as in the forward kernel
    dout_stride_n,
    dout_stride_h,
    num_heads,
    num_queries,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
):
    """Compute delta of one tile of queries; grid (B * H * number of tiles)."""
    num_tiles = tl.cdiv(num_queries, BLOCK_M)
    tile = tl.program_id(0) % num_tiles
    # int64 from here on: offsets pass 2^31 elements in large batches.
    batch_head = (tl.program_id(0) // num_tiles).to(tl.int64)
    batch = batch_head // num_heads
    head = batch_head % num_heads

    offsets_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    offsets_d = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    mask_m = offsets_m < num_queries
    mask_md = mask_m[:, None] & (offsets_d < HEAD_DIM)[None, :]

    out_offsets = (batch * num_queries + offsets_m.to(tl.int64)) * num_heads + head  # (BLOCK_M,)
    out = tl.load(out_ptr + out_offsets[:, None] * HEAD_DIM + offsets_d[None, :], mask=mask_md, other=0.0)
    dout_head = dout_ptr + (batch * dout_stride_b + head * dout_stride_h) * STRIDE_UNIT
    dout_offsets = offsets_m.to(tl.int64)[:, None] * dout_stride_n * STRIDE_UNIT + offsets_d[None, :]
    dout = tl.load(dout_head + dout_offsets, mask=mask_md, other=0.0)  # (BLOCK_M, BLOCK_D)
    dlse = tl.load(dlse_ptr + batch_head * num_queries + offsets_m, mask=mask_m, other=0.0)  # (BLOCK_M,)

    # float32 before the product: dS subtracts delta from a sum of the same size, and a rounding here would remain.
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1) - dlse  # (BLOCK_M,)
    tl.store(delta_ptr + batch_head * num_queries + offsets_m, delta, mask=mask_m)


@triton.jit(do_not_specialize=["num_heads", "num_queries", "num_keys"])
def attention_backward_kv_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    dk_ptr,
    dv_ptr,
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
    num_heads,
    num_queries,
    num_keys,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dk and dv of one tile of keys, reading all queries of its head; grid (B * H * number of tiles).

    The matrices are transposed, keys down and queries across, so that both sums over queries are plain products.
    """
    num_tiles = tl.cdiv(num_keys, BLOCK_N)
    tile = tl.program_id(0) % num_tiles
    # int64 from here on: offsets pass 2^31 elements in large batches.
    batch_head = (tl.program_id(0) // num_tiles).to(tl.int64)
    batch = batch_head // num_heads
    head = batch_head % num_heads

    offsets_n = tile * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    offsets_m = tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    offsets_d = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    mask_n = offsets_n < num_keys
    mask_d = offsets_d < HEAD_DIM
    mask_nd = mask_n[:, None] & mask_d[None, :]

    q_head = q_ptr + (batch * q_stride_b + head * q_stride_h) * STRIDE_UNIT
    k_head = k_ptr + (batch * k_stride_b + head * k_stride_h) * STRIDE_UNIT
    v_head = v_ptr + (batch * v_stride_b + head * v_stride_h) * STRIDE_UNIT
    dout_head = dout_ptr + (batch * dout_stride_b + head * dout_stride_h) * STRIDE_UNIT
    lse_head = lse_ptr + batch_head * num_queries
    delta_head = delta_ptr + batch_head * num_queries

    # Rows past the last key would read another tensor; what they compute is not stored.
    k_offsets = offsets_n.to(tl.int64)[:, None] * k_stride_n * STRIDE_UNIT + offsets_d[None, :]
    v_offsets = offsets_n.to(tl.int64)[:, None] * v_stride_n * STRIDE_UNIT + offsets_d[None, :]
    k = tl.load(k_head + k_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)
    v = tl.load(v_head + v_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)

    dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start_m in range(0, num_queries, BLOCK_M):
        rows_m = start_m + offsets_m  # (BLOCK_M,)
        mask_m = rows_m < num_queries
        mask_md = mask_m[:, None] & mask_d[None, :]
        q_offsets = rows_m.to(tl.int64)[:, None] * q_stride_n * STRIDE_UNIT + offsets_d[None, :]
        dout_offsets = rows_m.to(tl.int64)[:, None] * dout_stride_n * STRIDE_UNIT + offsets_d[None, :]
        q = tl.load(q_head + q_offsets, mask=mask_md, other=0.0)  # (BLOCK_M, BLOCK_D)
        dout = tl.load(dout_head + dout_offsets, mask=mask_md, other=0.0)  # (BLOCK_M, BLOCK_D)
        lse = tl.load(lse_head + rows_m, mask=mask_m, other=0.0)  # (BLOCK_M,)
        delta = tl.load(delta_head + rows_m, mask=mask_m, other=0.0)  # (BLOCK_M,)

        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale  # (BLOCK_N, BLOCK_M)
        # log2(e) after the subtraction, which is exact for large scores; before it, lse would be rounded once more.
        weights = tl.exp2((scores - lse[None, :]) * LOG2_E)  # (BLOCK_N, BLOCK_M)
        # A query past the last has zeros for q and dout, but 0 times an infinity in k would be a NaN weight.
        weights = tl.where(mask_m[None, :], weights, 0.0)
        # Here and below: the tensor cores take both factors in one dtype; the sum stays float32.
        dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision=PRECISION)  # (BLOCK_N, BLOCK_D)
        dweights = tl.dot(v, tl.trans(dout), input_precision=PRECISION)  # (BLOCK_N, BLOCK_M)
        dscores = weights * (dweights - delta[None, :])  # (BLOCK_N, BLOCK_M)
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=PRECISION)  # (BLOCK_N, BLOCK_D)

    # Rows of dk and dv are H * D apart in contiguous tensors.
    row_offsets = (batch * num_keys + offsets_n.to(tl.int64)) * num_heads + head  # (BLOCK_N,)
    offsets_nd = row_offsets[:, None] * HEAD_DIM + offsets_d[None, :]
    tl.store(dk_ptr + offsets_nd, (dk * scale).to(dk_ptr.dtype.element_ty), mask=mask_nd)
    tl.store(dv_ptr + offsets_nd, dv.to(dv_ptr.dtype.element_ty), mask=mask_nd)


@triton.jit(do_not_specialize=["num_heads", "num_queries", "num_keys"])
def attention_backward_q_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    dq_ptr,
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
    num_heads,
    num_queries,
    num_keys,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute dq of one tile of queries, reading all keys and values of its head; grid (B * H * number of tiles)."""
    num_tiles = tl.cdiv(num_queries, BLOCK_M)
    tile = tl.program_id(0) % num_tiles
    # int64 from here on: offsets pass 2^31 elements in large batches.
    batch_head = (tl.program_id(0) // num_tiles).to(tl.int64)
    batch = batch_head // num_heads
    head = batch_head % num_heads

    offsets_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    offsets_n = tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    offsets_d = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    mask_m = offsets_m < num_queries
    mask_d = offsets_d < HEAD_DIM
    mask_md = mask_m[:, None] & mask_d[None, :]

    q_head = q_ptr + (batch * q_stride_b + head * q_stride_h) * STRIDE_UNIT
    k_head = k_ptr + (batch * k_stride_b + head * k_stride_h) * STRIDE_UNIT
    v_head = v_ptr + (batch * v_stride_b + head * v_stride_h) * STRIDE_UNIT
    dout_head = dout_ptr + (batch * dout_stride_b + head * dout_stride_h) * STRIDE_UNIT

    # Rows past the last query would read another tensor; what they compute is not stored.
    q_offsets = offsets_m.to(tl.int64)[:, None] * q_stride_n * STRIDE_UNIT + offsets_d[None, :]
    dout_offsets = offsets_m.to(tl.int64)[:, None] * dout_stride_n * STRIDE_UNIT + offsets_d[None, :]
    q = tl.load(q_head + q_offsets, mask=mask_md, other=0.0)  # (BLOCK_M, BLOCK_D)
    dout = tl.load(dout_head + dout_offsets, mask=mask_md, other=0.0)  # (BLOCK_M, BLOCK_D)
    lse = tl.load(lse_ptr + batch_head * num_queries + offsets_m, mask=mask_m, other=0.0)  # (BLOCK_M,)
    delta = tl.load(delta_ptr + batch_head * num_queries + offsets_m, mask=mask_m, other=0.0)  # (BLOCK_M,)

    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start_n in range(0, num_keys, BLOCK_N):
        rows_n = start_n + offsets_n  # (BLOCK_N,)
        mask_n = rows_n < num_keys
        mask_nd = mask_n[:, None] & mask_d[None, :]
        k_offsets = rows_n.to(tl.int64)[:, None] * k_stride_n * STRIDE_UNIT + offsets_d[None, :]
        v_offsets = rows_n.to(tl.int64)[:, None] * v_stride_n * STRIDE_UNIT + offsets_d[None, :]
        k = tl.load(k_head + k_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)
        v = tl.load(v_head + v_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)

        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # (BLOCK_M, BLOCK_N)
        # log2(e) after the subtraction, which is exact for large scores; before it, lse would be rounded once more.
        weights = tl.exp2((scores - lse[:, None]) * LOG2_E)  # (BLOCK_M, BLOCK_N)
        dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION)  # (BLOCK_M, BLOCK_N)
        # A key past the last has score 0, and exp(0 - lse) may be infinite: times the 0 in its k that would be NaN.
        dscores = tl.where(mask_n[None, :], weights * (dweights - delta[:, None]), 0.0)  # (BLOCK_M, BLOCK_N)
        # The tensor cores take both factors in one dtype; the sum stays float32.
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision=PRECISION)  # (BLOCK_M, BLOCK_D)

    # Rows of dq are H * D apart in a contiguous tensor.
    row_offsets = (batch * num_queries + offsets_m.to(tl.int64)) * num_heads + head  # (BLOCK_M,)
    dq_pointers = dq_ptr + row_offsets[:, None] * HEAD_DIM + offsets_d[None, :]
    tl.store(dq_pointers, (dq * scale).to(dq_ptr.dtype.element_ty), mask=mask_md)
