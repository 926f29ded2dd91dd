# Triton compiles the functions below: their parameters have no Python types, and triton ships none.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What the kernels share: tiles whose head dim is no power of two, scores with bias and masks, dropout.

A tile of rows is a tuple of pieces: Triton's tiles have powers of two for sides, so a head dim of 80 is 64 columns and
16 more, and not 128. The pieces are the binary digits of the head dim rounded up to 16 (`DIM`), the largest first.

Functions on scores take their index tensors already expanded, (M, 1) and (1, N) or (1, M) and (N, 1), so that the
kernels that hold the transposed matrix share them.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Of sizes and strides no more is known than what STRIDE_UNIT tells, so that a new size needs no new compilation.
NOT_SPECIALIZED = [
    *(f"{tensor}_stride_{axis}" for tensor in ("q", "k", "v", "dout", "dq", "dkv") for axis in "bnh"),
    *(f"bias_stride_{axis}" for axis in "bhm"),
    "num_heads",
    "batch_heads",
    "num_queries",
    "num_keys",
    "sequences",
    "total_queries",
    "total_keys",
    "threshold",
]


@triton.constexpr_function
def piece_width(size):
    """Return the largest power of two in a size."""
    return 1 << (size.bit_length() - 1)


@triton.jit
def load_rows(
    base,
    rows,  # (R,) int64: offsets pass 2^31 elements in large batches
    stride,
    keep,  # (R,) bool: rows that exist; read only if MASKED
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    MASKED: tl.constexpr,
    START: tl.constexpr = 0,
):
    """Return the pieces of R rows, each (R, width); what does not exist is 0."""
    WIDTH: tl.constexpr = piece_width(DIM - START)
    columns = START + tl.arange(0, WIDTH)
    pointers = base + (rows * stride)[:, None] + columns[None, :]
    # A mask only where one is needed: full pieces of full tiles have none.
    if START + WIDTH <= HEAD_DIM:
        if MASKED:
            piece = tl.load(pointers, mask=keep[:, None], other=0.0)
        else:
            piece = tl.load(pointers)
    else:
        if MASKED:
            piece = tl.load(pointers, mask=keep[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)
        else:
            piece = tl.load(pointers, mask=(columns < HEAD_DIM)[None, :], other=0.0)
    if START + WIDTH == DIM:
        return (piece,)
    else:
        return (piece,) + load_rows(base, rows, stride, keep, HEAD_DIM, DIM, MASKED, START + WIDTH)


@triton.jit
def rows_of_tile(start, num_rows, BLOCK: tl.constexpr, MASKED: tl.constexpr, FULL: tl.constexpr):
    """Return the first row of a tile, the offsets of its rows from there, their numbers, and which of them are its own.

    All of them exist. Where fewer than BLOCK are left, the tile has rows again that are not its own: those before
    `start` if there are as many (FULL), else the last one. With an lse of +inf a query that is not its own has weights
    of exactly 0, so that no score needs a select. Rows of zeros would have that too, but for an infinity in a key: 0
    times that is NaN, in places where the rows that exist have none.
    """
    offsets = tl.arange(0, BLOCK)  # (BLOCK,)
    first = start
    if MASKED:
        if FULL:
            # The base moves and the offsets stay: no row needs an address of its own.
            first = tl.minimum(start, num_rows - BLOCK)
            own = first + offsets >= start
        else:
            own = start + offsets < num_rows
            offsets = tl.minimum(offsets, num_rows - 1 - start)
    else:
        own = start + offsets < num_rows
    return tl.cast(first, tl.int64), offsets.to(tl.int64), first + offsets, own


@triton.jit
def load_keys(
    k_head,
    v_head,
    mask_row,
    k_stride,
    v_stride,
    first,
    num_keys,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    STOP: tl.constexpr,
    MASK_N: tl.constexpr,  # whether the last tile reaches past the last key
    START: tl.constexpr = 0,
):
    """Return STOP - START keys in tiles: pieces of k, pieces of v, key numbers, which may be looked at.

    The first is number `first` + START. The widths of the tiles are powers of two, the largest first: 272 keys are
    256 + 16.
    """
    WIDTH: tl.constexpr = piece_width(STOP - START)
    LAST: tl.constexpr = START + WIDTH == STOP
    MASKED: tl.constexpr = (LAST and MASK_N) or (mask_row is not None)
    offsets = START + tl.arange(0, WIDTH)  # (WIDTH,)
    n = first + offsets
    allowed = n < num_keys
    if mask_row is not None:
        allowed = allowed & (tl.load(mask_row + n, mask=allowed, other=0) != 0)
    # The base moves and the offsets stay, so that only one addition is left in a loop. Rows that nobody may look at
    # load 0: their weight is 0, but 0 times what lies there could be NaN.
    start = tl.cast(first, tl.int64)
    k = load_rows(k_head + start * k_stride, offsets.to(tl.int64), k_stride, allowed, HEAD_DIM, DIM, MASKED)
    v = load_rows(v_head + start * v_stride, offsets.to(tl.int64), v_stride, allowed, HEAD_DIM, DIM, MASKED)
    tile = (k, v, n, allowed)
    if LAST:
        return (tile,)
    else:
        return (tile,) + load_keys(
            k_head, v_head, mask_row, k_stride, v_stride, first, num_keys, HEAD_DIM, DIM, STOP, MASK_N, START + WIDTH
        )


@triton.jit
def store_rows(
    base,
    rows,
    stride,
    keep,
    pieces,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    MASKED: tl.constexpr,
    START: tl.constexpr = 0,
):
    """Store what `load_rows` would load, rounded once to the dtype of the memory."""
    WIDTH: tl.constexpr = piece_width(DIM - START)
    columns = START + tl.arange(0, WIDTH)
    pointers = base + (rows * stride)[:, None] + columns[None, :]
    piece = pieces[0].to(base.dtype.element_ty)
    if START + WIDTH <= HEAD_DIM:
        if MASKED:
            tl.store(pointers, piece, mask=keep[:, None])
        else:
            tl.store(pointers, piece)
    else:
        if MASKED:
            tl.store(pointers, piece, mask=keep[:, None] & (columns < HEAD_DIM)[None, :])
        else:
            tl.store(pointers, piece, mask=(columns < HEAD_DIM)[None, :])
    if START + WIDTH < DIM:
        store_rows(base, rows, stride, keep, pieces[1:], HEAD_DIM, DIM, MASKED, START + WIDTH)


@triton.jit
def zero_rows(ROWS: tl.constexpr, DIM: tl.constexpr):
    """Return float32 pieces of zeros, each (ROWS, width)."""
    WIDTH: tl.constexpr = piece_width(DIM)
    piece = tl.zeros((ROWS, WIDTH), tl.float32)
    if WIDTH == DIM:
        return (piece,)
    else:
        return (piece,) + zero_rows(ROWS, DIM - WIDTH)


@triton.jit
def scaled_rows(pieces, factor):
    """Return pieces times a factor that broadcasts to each."""
    if len(pieces) == 1:
        return (pieces[0] * factor,)
    else:
        return (pieces[0] * factor,) + scaled_rows(pieces[1:], factor)


@triton.jit
def kept_rows(pieces, keep):
    """Return pieces with zeros in the rows that are not kept."""
    if len(pieces) == 1:
        return (tl.where(keep[:, None], pieces[0], 0.0),)
    else:
        return (tl.where(keep[:, None], pieces[0], 0.0),) + kept_rows(pieces[1:], keep)


@triton.jit
def row_products(left, right, PRECISION: tl.constexpr):
    """Return left right^T, (L, R) float32, for pieces of L and of R rows."""
    return _add_row_products(
        tl.dot(left[0], tl.trans(right[0]), input_precision=PRECISION), left[1:], right[1:], PRECISION
    )


@triton.jit
def _add_row_products(total, left, right, PRECISION: tl.constexpr):
    if len(left) == 0:
        return total
    else:
        total = tl.dot(left[0], tl.trans(right[0]), total, input_precision=PRECISION)
        return _add_row_products(total, left[1:], right[1:], PRECISION)


@triton.jit
def add_products(total, weights, rows, PRECISION: tl.constexpr):
    """Return total + weights rows, piece by piece: weights (L, R), rows of R, total of L float32 rows."""
    piece = tl.dot(weights, rows[0], total[0], input_precision=PRECISION)
    if len(rows) == 1:
        return (piece,)
    else:
        return (piece,) + add_products(total[1:], weights, rows[1:], PRECISION)


@triton.jit
def settled(pieces, SETTLED: tl.constexpr):
    """Return float32 pieces as they are; with SETTLED the products that made them have ended by then.

    Hopper's products run while the program goes on. Triton leaves those of a pipelined loop running into its next
    round, where the assembler finds that other instructions write the registers of the products that start there, and
    then lets no two of them run at once (ptxas, C7515). An assembly text of no instructions needs the numbers, so
    Triton waits for them before it.
    """
    if not SETTLED:
        return pieces
    else:
        piece = tl.inline_asm_elementwise("", "=f,0", [pieces[0]], dtype=tl.float32, is_pure=True, pack=1)
        if len(pieces) == 1:
            return (piece,)
        else:
            return (piece,) + settled(pieces[1:], SETTLED)


@triton.jit
def row_dots(left, right):
    """Return the dot product of each row of left with that of right, (R,) float32."""
    total = tl.sum(left[0].to(tl.float32) * right[0].to(tl.float32), axis=1)
    if len(left) == 1:
        return total
    else:
        return total + row_dots(left[1:], right[1:])


@triton.jit
def reachable(delta, lse):
    """Return delta with 0 for a query that may look at no key, as its bias is -inf everywhere.

    Its weights are 0, which would not cancel a gradient that is not finite: that of the square of an lse of -inf is.
    """
    return tl.where(lse == float("-inf"), 0.0, delta)


@triton.jit
def load_bias(bias_head, m, n, stride_m, stride_n, inside, MASKED: tl.constexpr):
    """Return the bias at queries m and keys n, float32, in the shape they broadcast to."""
    pointers = bias_head + m * stride_m + n * stride_n
    if MASKED:
        return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    else:
        return tl.load(pointers).to(tl.float32)


@triton.jit
def dropout_kept(seed_ptr, batch_head, m, n, threshold):
    """Return which weights are kept: one Philox number for each (head, query, key), whatever the tiles.

    Source: Philox4x32-10, Salmon et al., SC 2011.
    """
    seed = tl.load(seed_ptr)
    offset = tl.load(seed_ptr + 1)
    zero = (m * 0 + n * 0).to(tl.uint32)
    number, _, _, _ = tl.philox(
        seed,
        zero + n.to(tl.uint32),
        zero + m.to(tl.uint32),
        zero + tl.cast(batch_head, tl.uint32),
        zero + offset.to(tl.uint32),
    )
    # 31 bits, so that the threshold is an int32.
    return (number >> 1).to(tl.int32) >= threshold


@triton.jit
def locate(cu_ptr, batch, sequences, num_rows, total_rows):
    """Return where a sequence lies: its image, its first row there, and its number of rows.

    Without `cu_ptr` it is an image of its own. With it all sequences lie in one image, one after the other, and number
    `sequences` is what comes after the last of them. Only rows that exist are returned, whatever the offsets say:
    nobody else can check them.
    """
    if cu_ptr is None:
        return batch, batch * 0, num_rows
    else:
        first = tl.minimum(tl.maximum(tl.load(cu_ptr + batch), 0), total_rows)
        stop = tl.load(cu_ptr + batch + 1, mask=batch < sequences, other=0)
        stop = tl.where(batch < sequences, tl.minimum(stop, total_rows), total_rows)
        return batch * 0, tl.cast(first, tl.int64), tl.cast(tl.maximum(stop - first, 0), tl.int32)


@triton.jit
def fill_unowned(
    base, stride, tile, num_tiles, rows, is_sequence, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Store what no tile of packed sequences computes: a program does every `num_tiles`-th tile of it.

    That is 0 in the rows that come after the last sequence, where `is_sequence` is false, and NaN in those by which a
    sequence is longer than the longest was said to be.
    """
    value = tl.where(is_sequence, float("nan"), 0.0)
    for start in range(unowned(tile, num_tiles, is_sequence, BLOCK), rows, num_tiles * BLOCK):
        these = start + tl.arange(0, BLOCK)  # (BLOCK,)
        # 0 times NaN is NaN.
        pieces = scaled_rows(zero_rows(BLOCK, DIM), value)
        store_rows(base, these.to(tl.int64), stride, these < rows, pieces, HEAD_DIM, DIM, True)


@triton.jit
def unowned(tile, num_tiles, is_sequence, BLOCK: tl.constexpr):
    """Return the first row of the first tile that a program has to fill."""
    return tl.where(is_sequence, tile + num_tiles, tile) * BLOCK


@triton.jit
def image_and_head(index, num_heads):
    """Return the image, the head and the index itself of head number `index` of all, as int64.

    Offsets pass 2^31 elements in large batches, yet the division is of 32 bits: of 64 it takes some 100 instructions.
    """
    # In the interpreter a loop counts in Python's integers, which know no constants.
    index = tl.cast(index, tl.int32)
    return tl.cast(index // num_heads, tl.int64), tl.cast(index % num_heads, tl.int64), tl.cast(index, tl.int64)


@triton.jit
def in_elements(stride_b, stride_n, stride_h, UNIT: tl.constexpr):
    """Return strides that were given in units, as int64: an image can be longer than 2^31 elements."""
    return tl.cast(stride_b, tl.int64) * UNIT, tl.cast(stride_n, tl.int64) * UNIT, tl.cast(stride_h, tl.int64) * UNIT


@triton.jit
def head_of(base, strides, image, first, head):
    """Return where a head's first row begins, for strides of (image, row, head) in elements."""
    return base + image * strides[0] + first * strides[1] + head * strides[2]


@triton.jit
def slopes(
    products,
    dweights,
    lse,
    delta,
    m,
    n,
    allowed,
    bias_head,
    seed_ptr,
    batch_head,
    bias_strides,
    numbers,
    ZEROS: tl.constexpr,  # whether some keys are rows of zeros, past the last one
    KEY_MASK: tl.constexpr,
    NEGATIVE: tl.constexpr,
):
    """Return the weights after dropout and the gradient of the scores, from q k^T, dout v^T, lse and delta.

    lse, delta, the queries m, the keys n and which of these may be looked at broadcast to the products, whichever way
    round these are. Both are 0 for a query whose lse is +inf, and with a key mask or a bias for a key that may not be
    looked at. Without, only rows of zeros past the last key may not: dk and dv of these are not stored, and dq gets
    finite numbers times 0 from them.
    """
    SELECT: tl.constexpr = KEY_MASK or (bias_head is not None)
    scale_log2, threshold, dropout_scale = numbers
    # lse in the log2 units of the products: exp(x - lse) is exp2(x * log2(e) - lse * log2(e)).
    exponents = (-products if NEGATIVE else products) * scale_log2 - lse * LOG2_E
    if bias_head is not None:
        bias = load_bias(bias_head, m, n, bias_strides[0], bias_strides[1], allowed, True)
        # No weight is more than 1, but where all scores are huge the rounded lse says otherwise. NaN stays NaN.
        exponents = tl.minimum(exponents + bias * LOG2_E, 0.0, propagate_nan=tl.PropagateNan.ALL)
        # (-inf) - (-inf) of a query that may look at no key would be NaN.
        weights = tl.where(bias == float("-inf"), 0.0, tl.exp2(exponents))
    else:
        if ZEROS and not SELECT:
            # No weight is more than 1, but exp(0 - lse) of a row of zeros can be infinite. NaN stays NaN.
            exponents = tl.minimum(exponents, 0.0, propagate_nan=tl.PropagateNan.ALL)
        weights = tl.exp2(exponents)
    if SELECT:
        weights = tl.where(allowed, weights, 0.0)
    dropped = weights
    if seed_ptr is not None:
        kept = dropout_kept(seed_ptr, batch_head, m, n, threshold)
        dropped = tl.where(kept, weights * dropout_scale, 0.0)
        dweights = tl.where(kept, dweights * dropout_scale, 0.0)
    dscores = weights * (dweights - delta)
    if SELECT:
        # A weight of 0 would not cancel a delta that is NaN.
        dscores = tl.where(allowed, dscores, 0.0)
    return dropped, dscores
