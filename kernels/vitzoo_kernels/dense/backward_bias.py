# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The gradient of a bias: dS summed over the images and heads that share it.

Mathematics as in backward.py; delta is what its first kernel left in memory. A program owns one tile of the
(N_q, N_k) matrix and goes through the images and heads of its share one after the other, so that the sum has one order
and needs no atomics. There are as many shares as keep a GPU busy; the caller adds them up.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import (
    NOT_SPECIALIZED,
    head_of,
    in_elements,
    load_rows,
    row_products,
    rows_of_tile,
    slopes,
)


@triton.jit(do_not_specialize=[*NOT_SPECIALIZED, "shared_heads", "shared", "per_share", "bias_images", "bias_heads"])
def attention_backward_bias_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    partial_ptr,  # (shares, bias_images, bias_heads, N_q, N_k) float32, contiguous
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
    bias_stride_b,
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    num_queries,
    num_keys,
    shared_heads,  # heads that share one bias: 1 or H
    shared,  # images and heads that share one bias
    per_share,  # how many of them a program does
    bias_images,  # 1 or B
    bias_heads,  # 1 or H
    scale_log2,
    threshold,
    dropout_scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NEGATIVE: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute one tile of one share; grid (shares * bias_images * bias_heads * tiles of queries * tiles of keys)."""
    tiles_m = tl.cdiv(num_queries, BLOCK_M)
    tiles_n = tl.cdiv(num_keys, BLOCK_N)
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    # int64: offsets pass 2^31 elements in large batches.
    matrix = (tl.program_id(0) // (tiles_m * tiles_n)).to(tl.int64)
    bias_head = matrix % bias_heads
    bias_image = matrix // bias_heads % bias_images
    share = matrix // (bias_heads * bias_images)

    # m is (BLOCK_M,): rows past the last are the last one again, and are not stored.
    _first, _offsets, m, own = rows_of_tile(tile // tiles_n * BLOCK_M, num_queries, BLOCK_M, True, False)
    n = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    rows_m = m.to(tl.int64)
    rows_n = n.to(tl.int64)
    inside_n = n < num_keys
    q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
    k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
    v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
    dout_strides = in_elements(dout_stride_b, dout_stride_n, dout_stride_h, STRIDE_UNIT)
    bias_strides = (bias_stride_m, bias_stride_n)
    numbers = (scale_log2, threshold, dropout_scale)

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for index in range(share * per_share, tl.minimum((share + 1) * per_share, shared)):
        batch = bias_image + index // shared_heads
        head = bias_head + index % shared_heads
        batch_head = batch * num_heads + head
        q = load_rows(head_of(q_ptr, q_strides, batch, 0, head), rows_m, q_strides[1], own, HEAD_DIM, DIM, False)
        dout = load_rows(
            head_of(dout_ptr, dout_strides, batch, 0, head), rows_m, dout_strides[1], own, HEAD_DIM, DIM, False
        )
        allowed = inside_n
        if key_mask_ptr is not None:
            allowed = inside_n & (tl.load(key_mask_ptr + batch * num_keys + n, mask=inside_n, other=0) != 0)
        k = load_rows(head_of(k_ptr, k_strides, batch, 0, head), rows_n, k_strides[1], allowed, HEAD_DIM, DIM, True)
        v = load_rows(head_of(v_ptr, v_strides, batch, 0, head), rows_n, v_strides[1], allowed, HEAD_DIM, DIM, True)
        lse = tl.load(lse_ptr + batch_head * num_queries + m)  # (BLOCK_M,)
        delta = tl.load(delta_ptr + batch_head * num_queries + m)  # (BLOCK_M,)
        _, dscores = slopes(
            row_products(q, k, PRECISION),  # (BLOCK_M, BLOCK_N)
            row_products(dout, v, PRECISION),  # (BLOCK_M, BLOCK_N)
            lse[:, None], delta[:, None], rows_m[:, None], rows_n[None, :], allowed[None, :],
            bias_ptr + batch * bias_stride_b + head * bias_stride_h, seed_ptr, batch_head, bias_strides, numbers,
            True, key_mask_ptr is not None, NEGATIVE,
        )  # fmt: skip
        total += dscores

    pointers = partial_ptr + (matrix * num_queries + rows_m[:, None]) * num_keys + rows_n[None, :]
    tl.store(pointers, total, mask=own[:, None] & inside_n[None, :])
