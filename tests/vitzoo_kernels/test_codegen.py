"""The kernels, compiled ahead of time for four generations of GPU: registers, shared memory, instructions. No GPU."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vitzoo_kernels.dense import backward, configs, forward

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# Bytes of shared memory that one program may have, by compute capability.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
KERNELS = {
    "forward": (forward.attention_forward_kernel, configs.FORWARD),
    "backward_kv": (backward.attention_backward_kv_kernel, configs.BACKWARD_KV),
    "backward_q": (backward.attention_backward_q_kernel, configs.BACKWARD_Q),
}
STATISTICS = ("lse_ptr", "dlse_ptr", "delta_ptr")  # float32 whatever the dtype


def compiled(kernel, tiles, dtype, head_dim, capability, *, precision="ieee", stride_unit=8):
    """Compile as the launcher would for strides that 16 does not divide; pointers are 16-byte aligned."""
    constants = {
        "HEAD_DIM": head_dim,
        "BLOCK_D": 1 << (head_dim - 1).bit_length(),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "STRIDE_UNIT": stride_unit,
        "PRECISION": precision,
    }
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}

    def type_of(name):
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return "*fp32" if name in STATISTICS else f"*{dtype}"
        return "fp32" if name.startswith("scale") else "i32"

    signature = {name: type_of(name) for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(kernel, signature, constants, aligned), target=target, options=options)


def assert_fits(program, capability, tmp_path):
    (tmp_path / "kernel.cubin").write_bytes(program.asm["cubin"])
    command = [CUOBJDUMP, "--dump-resource-usage", tmp_path / "kernel.cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # A register that does not fit is spilled to the stack; these kernels have no other use for one.
    assert re.findall(r"(?:STACK|LOCAL):(\d+)", usage) == ["0", "0"], usage
    assert 0 < program.metadata.shared <= SHARED_LIMIT[capability]


@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "precision"),
    [
        ("bf16", 64, "ieee"),
        ("bf16", 72, "ieee"),
        ("fp16", 16, "ieee"),
        ("fp16", 24, "ieee"),
        ("fp32", 128, "ieee"),
        ("fp32", 64, "tf32"),
    ],
)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_fit_on_every_gpu(name, dtype, head_dim, precision, capability, tmp_path):
    kernel, table = KERNELS[name]
    tiles = table[4 if dtype == "fp32" else 2, 1 << (head_dim - 1).bit_length()]
    program = compiled(kernel, tiles, dtype, head_dim, capability, precision=precision)
    assert_fits(program, capability, tmp_path)
    ptx = program.asm["ptx"]
    if dtype != "fp32":
        assert TENSOR_CORE[capability] in ptx
    elif precision == "ieee":
        assert not re.search(r"mma", ptx.replace("fma", ""))
    else:
        assert "tf32" in ptx


def test_every_config_is_compiled_somewhere():
    sizes = {(element, block_d) for element in (2, 4) for block_d in (16, 32, 64, 128)}
    assert all(set(table) == sizes for _, table in KERNELS.values())


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_the_remaining_configs_fit(name, capability, tmp_path):
    kernel, table = KERNELS[name]
    for (element, block_d), tiles in table.items():
        if element == 4 and block_d < 128:
            program = compiled(kernel, tiles, "fp32", block_d, capability)
            assert_fits(program, capability, tmp_path)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_delta_kernel_fits(dtype, tmp_path):
    for capability in SHARED_LIMIT:
        program = compiled(backward.attention_delta_kernel, configs.DELTA, dtype, 72, capability)
        assert_fits(program, capability, tmp_path)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_of_head_dim_72_are_loaded_sixteen_bytes_at_a_time(name):
    kernel, table = KERNELS[name]
    # Loads of one bfloat16; stores of single float32 statistics are none.
    narrow = r"(?:ld\.global|cp\.async)\S*\.b16"
    wide = r"ld\.global\S*\.v4\.b32|cp\.async\S+ \[[^\]]*\], \[[^\]]*\], 0x10"
    with_unit = compiled(kernel, table[2, 128], "bf16", 72, 90).asm["ptx"]
    assert re.search(wide, with_unit)
    assert not re.search(narrow, with_unit)
    without = compiled(kernel, table[2, 128], "bf16", 72, 90, stride_unit=1).asm["ptx"]
    assert re.search(narrow, without)
