# Triton compiles the function below: its parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The dropout's mask by itself, so that another implementation can be given the same one."""

import triton
import triton.language as tl

from vitzoo_kernels.dense.tiles import dropout_kept


@triton.jit(do_not_specialize=["num_queries", "num_keys", "threshold"])
def dropout_mask_kernel(
    seed_ptr,
    mask_ptr,  # (B, H, N_q, N_k) uint8, contiguous
    num_queries,
    num_keys,
    threshold,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Write one tile of the mask, 1 where a weight is kept; grid (B * H * tiles of queries * tiles of keys)."""
    tiles_m = tl.cdiv(num_queries, BLOCK_M)
    tiles_n = tl.cdiv(num_keys, BLOCK_N)
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    # int64: offsets pass 2^31 elements in large batches.
    batch_head = (tl.program_id(0) // (tiles_m * tiles_n)).to(tl.int64)
    m = (tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M))[:, None].to(tl.int64)  # (BLOCK_M, 1)
    n = (tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :].to(tl.int64)  # (1, BLOCK_N)
    kept = dropout_kept(seed_ptr, batch_head, m, n, threshold)
    pointers = mask_ptr + (batch_head * num_queries + m) * num_keys + n
    tl.store(pointers, kept.to(tl.uint8), mask=(m < num_queries) & (n < num_keys))
