# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The forward for few keys and many heads: one program does a whole head.

Mathematics and memory as in forward.py. All keys and values of the head stay on the chip and the queries pass by, tile
by tile, so that addresses, loads and waits for the keys are paid for once a head and not once a tile.

Below some 370 keys bandwidth and instructions are the limits, and not the tensor cores. At N = 197, D = 64 the bytes of
a head take 5,450 cycles of an H200's multiprocessor at 4.3 TB/s; the programs of forward.py by tiles of 64 keys have
5,000 instructions for each of its four schedulers, this one 3,700, although its last tile of 5 queries is computed like
one of 64, with which all products take 3,200 cycles. (Counted in the machine code of Triton 3.9 for compute capability
9.0; nothing was timed.) Few heads would leave most of a GPU idle; they go to forward.py.
"""

import triton
import triton.language as tl

from vitzoo_kernels.dense.softmax import add_group, load_query, store_query, zero_sums
from vitzoo_kernels.dense.tiles import NOT_SPECIALIZED, head_of, image_and_head, in_elements, load_keys


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def attention_forward_whole_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
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
    bias_stride_b,
    bias_stride_h,
    bias_stride_m,
    bias_stride_n,
    num_heads,
    num_queries,
    num_keys,
    scale_log2,
    threshold,
    dropout_scale,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    KEYS: tl.constexpr,  # at least num_keys; no tile but the last reaches past them
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # keys in a group
    MASK_N: tl.constexpr,  # whether KEYS are more than there are
    NEGATIVE: tl.constexpr,
    STRIDE_UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute out and lse of one head of at least BLOCK_M queries; grid (B * H)."""
    batch, head, batch_head = image_and_head(tl.program_id(0), num_heads)
    q_strides = in_elements(q_stride_b, q_stride_n, q_stride_h, STRIDE_UNIT)
    k_strides = in_elements(k_stride_b, k_stride_n, k_stride_h, STRIDE_UNIT)
    v_strides = in_elements(v_stride_b, v_stride_n, v_stride_h, STRIDE_UNIT)
    q_head = head_of(q_ptr, q_strides, batch, 0, head)
    k_head = head_of(k_ptr, k_strides, batch, 0, head)
    v_head = head_of(v_ptr, v_strides, batch, 0, head)
    # Rows of out are H * D apart in a contiguous tensor.
    out_head = out_ptr + (batch * num_queries * num_heads + head) * HEAD_DIM
    bias_head = bias_ptr
    if bias_ptr is not None:
        bias_head = bias_ptr + batch * bias_stride_b + head * bias_stride_h
    mask_row = key_mask_ptr
    if key_mask_ptr is not None:
        mask_row = key_mask_ptr + batch * num_keys
    lse_head = lse_ptr
    if lse_ptr is not None:
        lse_head = lse_ptr + batch_head * num_queries
    heads = (q_head, k_head, v_head, out_head, batch_head)
    strides = (q_strides[1], k_strides[1], v_strides[1], num_heads * HEAD_DIM, bias_stride_m, bias_stride_n)
    numbers = (scale_log2, threshold, dropout_scale)
    groups = _load_groups(heads, mask_row, strides, num_keys, HEAD_DIM, DIM, KEYS, BLOCK_N, MASK_N)
    EMPTY: tl.constexpr = (bias_ptr is not None) or (key_mask_ptr is not None)
    for start in range(0, num_queries, BLOCK_M):
        # The last tile ends with the last query and does some rows again, with the same result: cheaper than a mask.
        first = tl.minimum(start, num_queries - BLOCK_M)
        query = load_query(heads, strides, first, num_queries, HEAD_DIM, DIM, BLOCK_M, False)
        sums = _add_groups(
            zero_sums(DIM, BLOCK_M), groups, query, heads, bias_head, mask_row, seed_ptr, strides, numbers,
            MASK_N, True, NEGATIVE, PRECISION,
        )  # fmt: skip
        store_query(sums, query, heads, lse_head, strides, numbers, first, HEAD_DIM, DIM, BLOCK_M, False, EMPTY)


@triton.constexpr_function
def group_width(keys, block_n):
    """Return how many of these keys have their scores in registers at once."""
    # A few keys more cost fewer instructions in a larger group than in one of their own.
    return keys if keys <= (160 if block_n == 128 else block_n) else block_n


@triton.jit
def _load_groups(
    heads,
    mask_row,
    strides,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASK_N: tl.constexpr,
    START: tl.constexpr = 0,
):
    """Return all keys of a head: groups of tiles, as `load_keys` returns them."""
    STOP: tl.constexpr = START + group_width(KEYS - START, BLOCK_N)
    MASKED: tl.constexpr = MASK_N and (STOP == KEYS)
    group = load_keys(
        heads[1], heads[2], mask_row, strides[1], strides[2], 0, num_keys, HEAD_DIM, DIM, STOP, MASKED, START
    )
    if STOP == KEYS:
        return (group,)
    else:
        return (group,) + _load_groups(heads, mask_row, strides, num_keys, HEAD_DIM, DIM, KEYS, BLOCK_N, MASK_N, STOP)


@triton.jit
def _add_groups(
    sums,
    groups,
    query,
    heads,
    bias_head,
    mask_row,
    seed_ptr,
    strides,
    numbers,
    MASK_N: tl.constexpr,
    FIRST: tl.constexpr,
    NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add all keys that stay to the sums."""
    LAST: tl.constexpr = len(groups) == 1
    sums = add_group(
        sums, groups[0], query, heads, bias_head, mask_row, seed_ptr, strides, numbers,
        False, LAST and MASK_N, FIRST, NEGATIVE, PRECISION,
    )  # fmt: skip
    if LAST:
        return sums
    else:
        return _add_groups(
            sums, groups[1:], query, heads, bias_head, mask_row, seed_ptr, strides, numbers,
            MASK_N, False, NEGATIVE, PRECISION,
        )  # fmt: skip
