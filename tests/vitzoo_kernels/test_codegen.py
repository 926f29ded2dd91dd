"""What the launcher launches, compiled ahead of time for four generations of GPU: registers, memory, instructions. No GPU."""

import os
import re

import pytest
import torch

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)
pytest.importorskip("triton")

from vitzoo_kernels.dense import configs  # noqa: E402

from benchmarks.ahead_of_time import (  # noqa: E402
    SHARED_LIMIT,
    Call,
    compiled,
    launches_of,
    serialization_warnings,
)

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
# Loads of one bfloat16, and of sixteen bytes at a time.
NARROW = r"(?:ld\.global|cp\.async)\S*\.b16"
WIDE = r"ld\.global\S*\.v4\.b32|cp\.async\S+ \[[^\]]*\], \[[^\]]*\], 0x10"


@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize(
    "call",
    [
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197),
        Call(dtype=BF16, head_dim=64, num_queries=257, num_keys=257),
        Call(dtype=F16, head_dim=32, num_queries=49, num_keys=49),
        Call(dtype=BF16, head_dim=72, num_queries=729, num_keys=729),
        Call(dtype=BF16, head_dim=80, num_queries=257, num_keys=257),
        Call(dtype=BF16, head_dim=112, num_queries=1, num_keys=577),
        Call(dtype=F16, head_dim=128, num_queries=100, num_keys=50),
        Call(dtype=BF16, head_dim=32, num_queries=300, num_keys=300, packed_sequences=True),
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, key_mask=True),
    ],
    ids=lambda call: f"{call.head_dim}-{call.num_queries}" if isinstance(call, Call) else None,
)
def test_nothing_spills_and_everything_fits(call, capability):
    for record in launches_of(call, capability):
        program = compiled(record, capability)
        registers, spilled = program.usage
        assert spilled == 0, (record.name, registers)
        assert 0 < program.shared <= SHARED_LIMIT[capability], record.name
        # A tile of fewer than 64 rows is too small for wgmma and tcgen05.
        small = record.name == "attention_forward_kernel" and not record.arguments["FULL_M"] and call.num_queries <= 32
        assert ("mma.sync" if small else TENSOR_CORE[capability]) in program.ptx, record.name
        assert not serialization_warnings(program), record.name


def test_the_main_body_of_a_vit_uses_whole_warpgroups_and_no_mask():
    forward, backward = launches_of(Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197), 90)
    assert (forward.name, backward.name) == ("attention_forward_kernel", "attention_backward_whole_kernel")
    assert {name: forward.arguments[name] for name in ("BLOCK_M", "BLOCK_N", "TAIL_M", "TAIL_N")} == {
        "BLOCK_M": 64,
        "BLOCK_N": 64,
        "TAIL_M": 16,
        "TAIL_N": 16,
    }
    # 64 queries by 64 keys, and by 16 in the tail; the tail of 5 queries is a tile of 16 rows on the small instruction.
    ptx = compiled(forward, 90).ptx
    assert set(re.findall(r"wgmma\.mma_async\S*?(m64n\d+)k16", ptx)) == {"m64n64", "m64n16"}
    assert "mma.sync.aligned.m16n8k16" in ptx


@pytest.mark.parametrize("dim", [64, 72, 80, 88, 96, 104, 112])
def test_the_padding_of_tokens_and_head_dims_is_small(dim):
    assert sum(piece_sizes(dim)) - dim < 16
    for tokens in (197, 201, 257, 261, 577, 729, 1025, 1370, 4097):
        (forward, *_) = launches_of(Call(dtype=BF16, head_dim=dim, num_queries=tokens, num_keys=tokens), 90)
        block_m, block_n, tail_m, tail_n = (forward.arguments[x] for x in ("BLOCK_M", "BLOCK_N", "TAIL_M", "TAIL_N"))
        computed = (tokens // block_m * block_m + tail_m) * (tokens // block_n * block_n + tail_n)
        assert computed / tokens**2 < 1.15, tokens


def piece_sizes(head_dim):
    """Return the widths of the pieces that a head dim is split into."""
    rounded = -(-head_dim // 16) * 16
    return [1 << bit for bit in range(4, 8) if rounded >> bit & 1]


@pytest.mark.parametrize("dim", [72, 88])
def test_rows_are_loaded_sixteen_bytes_at_a_time(dim):
    for record in launches_of(Call(dtype=BF16, head_dim=dim, num_queries=256, num_keys=256), 90):
        assert re.search(WIDE, compiled(record, 90).ptx), record.name
        assert not re.search(NARROW, compiled(record, 90).ptx), record.name
    # Strides of which 8 is no factor are read one element at a time: right, and slow.
    record.arguments["STRIDE_UNIT"] = 1
    assert re.search(NARROW, compiled(record, 90).ptx)


def test_float32_uses_tensor_cores_only_where_torch_allows_tf32():
    call = Call(dtype=F32, head_dim=64, num_queries=50, num_keys=50)
    before = torch.get_float32_matmul_precision()
    for precision, found in (("highest", False), ("high", True)):
        torch.set_float32_matmul_precision(precision)
        try:
            for record in launches_of(call, 90):
                assert bool(re.search(r"mma\S*tf32", compiled(record, 90).ptx)) == found, record.name
        finally:
            torch.set_float32_matmul_precision(before)


def test_every_size_has_its_tiles():
    sizes = {(element, dim) for element in (2, 4) for dim in range(16, 129, 16)}
    for table in ("FORWARD", "BACKWARD_Q", "BACKWARD_KV"):
        assert set(getattr(configs, table)) == set(getattr(configs, f"{table}_RICH")) == sizes
    assert set(configs.BACKWARD_BIAS) == set(configs.FORWARD_RAGGED) == sizes
    for table in (configs.BACKWARD_WHOLE, configs.BACKWARD_WHOLE_RICH):
        assert set(table) <= sizes
        assert all([tiles.block_n for tiles in row] == sorted(tiles.block_n for tiles in row) for row in table.values())


def test_a_gpu_with_little_shared_memory_splits_the_backward():
    call = Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197)
    assert [record.name for record in launches_of(call, 120)][1:] == [
        "attention_backward_q_kernel",
        "attention_backward_kv_kernel",
    ]
