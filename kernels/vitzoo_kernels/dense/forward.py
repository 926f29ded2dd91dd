# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The forward kernel: out = softmax(q k^T * scale) v, one tile of queries at a time.

Algorithm: FlashAttention-2, arXiv 2307.08691, algorithm 1. The softmax is online: running maximum and sum a row.
Memory: q (B, N_q, H, D) and k, v (B, N_k, H, D) with any strides whose last is 1; out (B, N_q, H, D) contiguous;
lse (B, H, N_q) contiguous, float32, natural logarithm.
A program owns BLOCK_M queries of one head: their rows of out and lse. It reads all keys and values of that head.
Nothing is kept for the backward but lse, from which it recomputes the weights.

D is padded to BLOCK_D, a power of two, with lanes that load 0 and store nothing.
"""

import triton
import triton.language as tl

# Below any finite score, yet finite: while a row has seen only -inf scores, (-inf) - LOWEST is -inf, not NaN.
LOWEST = tl.constexpr(-3.4028234663852886e38)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["num_heads", "num_queries", "num_keys"])
def attention_forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
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
    num_heads,
    num_queries,
    num_keys,
    scale_log2,  # scale * log2(e), so that exp(x * scale) is exp2(x * scale_log2): the hardware has exp2 only
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out and lse of one tile of queries; grid (B * H * number of tiles)."""
    # One grid axis, as only the first may pass 65,535; tiles of one head are neighbours and share its keys in L2.
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

    q_head = q_ptr + (batch * q_stride_b + head * q_stride_h) * STRIDE_UNIT
    k_head = k_ptr + (batch * k_stride_b + head * k_stride_h) * STRIDE_UNIT
    v_head = v_ptr + (batch * v_stride_b + head * v_stride_h) * STRIDE_UNIT

    # Rows past the last query would read another tensor; padded lanes must be 0 to add nothing to the scores.
    q_offsets = offsets_m.to(tl.int64)[:, None] * q_stride_n * STRIDE_UNIT + offsets_d[None, :]
    q = tl.load(q_head + q_offsets, mask=mask_m[:, None] & mask_d[None, :], other=0.0)  # (BLOCK_M, BLOCK_D)

    row_max = tl.full((BLOCK_M,), LOWEST, tl.float32)  # of the scores in log2 units
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start_n in range(0, num_keys, BLOCK_N):
        rows_n = start_n + offsets_n  # (BLOCK_N,)
        mask_n = rows_n < num_keys
        k_offsets = rows_n.to(tl.int64)[:, None] * k_stride_n * STRIDE_UNIT + offsets_d[None, :]
        v_offsets = rows_n.to(tl.int64)[:, None] * v_stride_n * STRIDE_UNIT + offsets_d[None, :]
        mask_nd = mask_n[:, None] & mask_d[None, :]
        # Values past the last key load 0: their weight is 0, but 0 times what lies there could be NaN.
        k = tl.load(k_head + k_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)
        v = tl.load(v_head + v_offsets, mask=mask_nd, other=0.0)  # (BLOCK_N, BLOCK_D)

        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2  # (BLOCK_M, BLOCK_N)
        # A key past the last has score 0 from its zeros; -inf gives it no weight.
        scores = tl.where(mask_n[None, :], scores, float("-inf"))

        new_max = tl.maximum(row_max, tl.max(scores, axis=1))  # (BLOCK_M,)
        weights = tl.exp2(scores - new_max[:, None])  # (BLOCK_M, BLOCK_N), at most 1
        rescale = tl.exp2(row_max - new_max)  # (BLOCK_M,)
        row_sum = row_sum * rescale + tl.sum(weights, axis=1)
        # The tensor cores take both factors in one dtype; the sum stays float32.
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision=PRECISION)
        row_max = new_max

    # Rows of out are H * D apart in a contiguous tensor.
    out_offsets = (batch * num_queries + offsets_m.to(tl.int64)) * num_heads + head  # (BLOCK_M,)
    out_pointers = out_ptr + out_offsets[:, None] * HEAD_DIM + offsets_d[None, :]
    out = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)  # (BLOCK_M, BLOCK_D), the one rounding
    tl.store(out_pointers, out, mask=mask_m[:, None] & mask_d[None, :])
    # ln(2) turns the log2 units of the loop into the natural logarithm that lse is.
    lse = (row_max + tl.log2(row_sum)) * LN_2  # (BLOCK_M,)
    tl.store(lse_ptr + batch_head * num_queries + offsets_m, lse, mask=mask_m)
