"""What the launcher launches, compiled ahead of time for four generations of GPU: registers, memory, instructions. No GPU."""

import json
import os
import re
from itertools import product

import pytest
import torch

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)
pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402
from vitzoo_kernels import attention, attention_qkvpacked  # noqa: E402
from vitzoo_kernels.dense import configs, launch, planning, plans  # noqa: E402

from benchmarks.ahead_of_time import SHARED_LIMIT, TENSOR_CORE, Call, compiled, launches_of  # noqa: E402

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
# Loads of sixteen bytes at a time.
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
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, bias=True),
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, lse=False),
        # Many heads, each a program of its own.
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, batch=128),
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, batch=128, lse=False),
        Call(dtype=BF16, head_dim=64, num_queries=257, num_keys=257, batch=128),
    ],
    ids=lambda call: f"{call.head_dim}-{call.num_queries}-{call.batch}" if isinstance(call, Call) else None,
)
def test_nothing_spills_and_everything_fits(call, capability):
    for record in launches_of(call, capability):
        program = compiled(record, capability)
        assert program.problems == (), record.name
        # A tile of fewer than 64 rows is too small for wgmma and tcgen05.
        small = record.name == "attention_forward_kernel" and not record.arguments["FULL_M"] and call.num_queries <= 32
        # With a bias, registers may leave no room for larger tiles.
        if not call.bias:
            assert program.product == ("mma.sync" if small else TENSOR_CORE[capability]), record.name


def test_the_main_body_of_a_vit_uses_whole_warpgroups_and_no_mask():
    forward, backward = launches_of(Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197), 90)
    assert (forward.name, backward.name) == ("attention_forward_kernel", "attention_backward_whole_kernel")
    assert {name: forward.arguments[name] for name in ("BLOCK_M", "BLOCK_N", "TAIL_M", "TAIL_N")} == {
        "BLOCK_M": 64,
        "BLOCK_N": 128,
        "TAIL_M": 16,
        "TAIL_N": 80,
    }
    # 64 queries by 128 keys, and by 64 and 16 in the tail; the tail of 5 queries is a tile of 16 rows on
    # the small instruction.
    ptx = compiled(forward, 90).ptx
    assert set(re.findall(r"wgmma\.mma_async\S*?(m64n\d+)k16", ptx)) == {"m64n128", "m64n64", "m64n16"}
    assert "mma.sync.aligned.m16n8k16" in ptx


def test_many_heads_of_few_keys_have_a_program_each_and_their_keys_are_loaded_once():
    call = Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, num_heads=12, batch=22)
    (forward, _) = launches_of(call, 90)
    assert (forward.name, forward.arguments["KEYS"]) == ("attention_forward_whole_kernel", 208)
    program = compiled(forward, 90)
    # Three programs share a multiprocessor: the whole point of the groups of keys.
    assert 3 * 32 * forward.arguments["num_warps"] * program.usage[0] <= 65536
    assert 3 * program.shared <= SHARED_LIMIT[90]
    for fewer in (
        Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, num_heads=12, batch=21),
        Call(dtype=BF16, head_dim=64, num_queries=64, num_keys=197, num_heads=12, batch=22),
        Call(dtype=BF16, head_dim=64, num_queries=577, num_keys=577, num_heads=12, batch=22),
        Call(dtype=F32, head_dim=64, num_queries=197, num_keys=197, num_heads=12, batch=22),
    ):
        assert launches_of(fewer, 90)[0].name == "attention_forward_kernel"


@pytest.mark.parametrize("dim", [64, 72, 80, 88, 96, 104, 112])
def test_the_padding_of_tokens_and_head_dims_is_small(dim):
    assert sum(piece_sizes(dim)) - dim < 16
    for tokens in (197, 201, 257, 261, 577, 729, 1025, 1370, 4097):
        (forward, *_) = launches_of(Call(dtype=BF16, head_dim=dim, num_queries=tokens, num_keys=tokens), 90)
        block_m, block_n, tail_m, tail_n = (forward.arguments[x] for x in ("BLOCK_M", "BLOCK_N", "TAIL_M", "TAIL_N"))
        computed = (tokens // block_m * block_m + tail_m) * (tokens // block_n * block_n + tail_n)
        assert computed / tokens**2 < 1.15, tokens


def test_a_long_backward_loads_ahead_on_hopper_and_its_products_do_not_wait_for_each_other():
    call = Call(dtype=BF16, head_dim=64, num_queries=577, num_keys=577)
    records = [record for record in launches_of(call, 90) if "backward" in record.name]
    assert len(records) == 2
    assert launches_of(call, 90)[0].arguments["SETTLED"]  # tiles of 128 keys
    for record in records:
        program = compiled(record, 90)
        assert "cp.async" in program.ptx, record.name
        assert program.serialized == 0, record.name
        record.arguments["SETTLED"] = False
        assert compiled(record, 90).serialized > 0, record.name
    assert not any(record.arguments.get("SETTLED") for record in launches_of(call, 100))


def piece_sizes(head_dim):
    """Return the widths of the pieces that a head dim is split into."""
    rounded = -(-head_dim // 16) * 16
    return [1 << bit for bit in range(4, 8) if rounded >> bit & 1]


@pytest.mark.parametrize("dim", [72, 88])
def test_rows_are_loaded_sixteen_bytes_at_a_time(dim):
    for record in launches_of(Call(dtype=BF16, head_dim=dim, num_queries=256, num_keys=256), 90):
        program = compiled(record, 90)
        assert re.search(WIDE, program.ptx), record.name
        assert program.narrow_loads == 0, record.name
    # Strides of which 8 is no factor are read one element at a time: right, and slow.
    record.arguments["STRIDE_UNIT"] = 1
    assert compiled(record, 90).narrow_loads > 0


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


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_every_launch_finds_its_tiles(capability):
    names = [path.name for path in configs.FOLDER.glob(f"sm{capability}-triton*.json")]
    assert names
    for name in names:
        version = name.removesuffix(".json").partition("triton")[2]
        for kernel, features, products, dim in product(
            configs.KERNELS, configs.FEATURES, configs.PRODUCTS, configs.HEAD_DIMS
        ):
            key = configs.Key(kernel, features, products, dim)
            found = [configs.find(divmod(capability, 10), version, key, keys) for keys in (1, 64, 197, 10**6)]
            if kernel.endswith("whole"):
                # Where there is room for many keys there is room for fewer; beyond, a program has a tile and not a head.
                held = [tiles is not None for tiles in found]
                assert held == sorted(held, reverse=True)
                assert found[-1] is None
                if kernel == "backward_whole":
                    rooms = [tiles.block_n for tiles in found if tiles is not None]
                    assert rooms == sorted(rooms)
            elif kernel != "backward_bias" or features in ("bias", "rich"):
                assert None not in found, key


@pytest.mark.parametrize(
    ("capability", "version", "file"),
    [
        ((9, 0), "3.9.1", "sm90-triton3.9.json"),
        ((9, 0), "4.0.0", "sm90-triton3.9.json"),
        ((10, 3), "3.8.0", "sm100-triton3.6.json"),
        ((8, 6), "3.5.0", "sm80-triton3.6.json"),
        ((13, 0), "3.9.0+git", "sm80-triton3.9.json"),
    ],
)
def test_a_gpu_without_a_table_takes_its_generations_and_a_triton_the_nearest_older(
    capability, version, file, monkeypatch, tmp_path
):
    key = configs.Key("forward", "plain", "16", 64)
    for arch, minor in product(configs.ARCHITECTURES, (6, 9)):
        name = configs.file_name(arch, (3, minor))
        entry = {**vars(key), "max_tokens": 64, "tiles": [arch, minor, 4, 1]}
        (tmp_path / name).write_text(json.dumps({"entries": [entry]}))
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    monkeypatch.setattr(configs, "_table", configs._table.__wrapped__)
    tiles = configs.find(capability, version, key, 64)
    assert f"sm{tiles.block_m}-triton3.{tiles.block_n}.json" == file
    assert configs.find(capability, version, key, 65) is None


def test_a_gpu_with_little_shared_memory_splits_the_backward():
    call = Call(dtype=BF16, head_dim=64, num_queries=257, num_keys=257)
    assert [record.name for record in launches_of(call, 120)][1:] == [
        "attention_backward_q_kernel",
        "attention_backward_kv_kernel",
    ]


@pytest.mark.parametrize("arch", configs.ARCHITECTURES)
def test_no_tile_ships_for_triton_3_7_that_it_may_compile_to_wrong_reads(arch):
    table = configs._table(arch, (3, 7))
    wrong = [
        (key, tiles)
        for key, rows in table.items()
        for _, tiles in rows
        if tiles.num_warps == 4 and 32 in (tiles.block_m, tiles.block_n)
    ]
    assert table
    assert wrong == []


def test_no_tile_ships_for_triton_3_6_on_blackwell_with_which_it_may_race():
    # triton-lang/triton, issue 9871: 4 warps, 32 rows or keys, loads ahead.
    tiles = [tiles for rows in configs._table(100, (3, 6)).values() for _, tiles in rows]
    assert tiles
    assert not [x for x in tiles if x.num_warps == 4 and 32 in (x.block_m, x.block_n) and x.num_stages > 1]


class FakeDriver:
    """A Hopper GPU that takes programs and runs none: Triton believes that it launches."""

    def __init__(self, launched):
        self.launched, self.utils = launched, self

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_device_properties(self, device):
        return {"max_shared_mem": SHARED_LIMIT[90], "warpSize": 32, "max_num_regs": 65536, "multiprocessor_count": 132}

    def load_binary(self, *arguments):
        return None, None, 0, 0, 1024

    def unload_module(self, module):
        pass

    def launcher_cls(self, source, metadata):
        return lambda *arguments: self.launched.append(metadata.hash)


@pytest.fixture
def launched(monkeypatch):
    """Let Triton's own launcher compile for a GPU that is not there; return what it launched, as hashes of programs."""
    found = []
    monkeypatch.setattr(planning, "_check_device", lambda q: None)
    monkeypatch.setattr(planning, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(launch, "_plans", plans.Plans())
    kernels = [kernel for kernel in vars(planning).values() if isinstance(kernel, JITFunction)]
    for kernel in kernels:
        monkeypatch.setattr(kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder))
    before = driver._active
    driver.set_active(FakeDriver(found))
    yield found
    driver.set_active(before)


def test_a_first_call_finds_the_programs_that_were_compiled_ahead_of_time(launched):
    call = Call(dtype=BF16, head_dim=64, num_queries=197, num_keys=197, lse_grad=False, packed=True)
    ahead = [compiled(record, 90).compiled.metadata.hash for record in launches_of(call, 90)]
    qkv = torch.zeros(2, 197, 3, 3, 64, dtype=BF16, requires_grad=True)
    for _ in range(2):
        out = attention_qkvpacked(qkv)
        torch.autograd.grad(out, qkv, torch.ones_like(out))
    assert launched == ahead * 2


@pytest.mark.parametrize(
    ("layout", "programs"),
    [
        # A model's own, for every size of image.
        (lambda batch, tokens, heads: torch.zeros(batch, tokens, 3, heads, 64, dtype=BF16).unbind(2), [0, 0, 0, 1]),
        # (B, H, N, D), where the distance of heads hangs on the number of tokens: one for all.
        (
            lambda batch, tokens, heads: torch.zeros(3, batch, heads, tokens, 64, dtype=BF16).transpose(2, 3).unbind(0),
            [0, 0, 0, 0],
        ),
    ],
    ids=["packed", "transposed"],
)
def test_a_new_size_of_image_needs_no_new_program(launched, layout, programs):
    for batch, tokens, heads in ((2, 300, 2), (5, 300, 2), (2, 301, 2), (2, 300, 3)):
        attention(*layout(batch, tokens, heads))
    assert [list(dict.fromkeys(launched)).index(program) for program in launched] == programs
