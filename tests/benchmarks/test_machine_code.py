"""Whether the check of machine code finds registers of an asynchronous product that are written too early."""

import os

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from benchmarks.machine_code import overwritten  # noqa: E402

HEAD = """
        /*0000*/                   WARPGROUP.ARRIVE ;
        /*0010*/                   HGMMA.64x64x16.F32.BF16 R56, gdesc[UR16], RZ, !UPT ;
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R56, R92, gdesc[UR16].tnspB, R56, gsb0 ;
"""
WAIT = "        /*0f00*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n"


@pytest.mark.parametrize(
    ("between", "found"),
    [
        ("MOV R91, RZ", 0),
        ("MOV R96, RZ", 0),
        ("MOV R92, RZ", 1),
        ("@!P0 IADD3 R95, P2, R18.reuse, 0x40000, RZ", 1),
        ("LDS.128 R90, [R4+0x10]", 1),
        ("LDG.E.64 R94, desc[UR4][R2.64]", 1),
        ("LDSM.16.MT88.4 R88, [R4]", 0),
        ("LDSM.16.MT88.4 R89, [R4]", 1),
        ("SHFL.BFLY PT, R93, R4, 0x2, 0x1f", 1),
        ("ISETP.GE.AND P0, PT, R92, RZ, PT", 0),
        ("STG.E.128 desc[UR4][R92.64], R92", 0),
        ("HGMMA.64x64x16.F32.BF16 R64, gdesc[UR16], R64", 1),
        ("HGMMA.64x32x16.F32.BF16 R64, gdesc[UR16], R64", 0),
    ],
)
def test_writes_to_the_left_side_of_a_running_product_are_found(between: str, found: int) -> None:
    line = f"        /*0100*/                   {between} ;\n"
    assert len(overwritten(HEAD + line + WAIT)) == found
    assert overwritten(HEAD + WAIT + line) == []


def test_both_ways_out_of_a_branch_are_followed() -> None:
    write = "        /*0200*/                   MOV R92, RZ ;\n"
    branch = "        /*0100*/              @!P0 BRA `(.L_x_2) ;\n"
    back = HEAD.replace("HGMMA.64x64x16.F32.BF16 R56, R92", "HGMMA.64x64x16.F32.BF16 R56, R92", 1)
    # Only who branches meets the write, before or after.
    assert len(overwritten(HEAD + branch + WAIT + ".L_x_2:\n" + write + WAIT)) == 1
    assert len(overwritten(".L_x_2:\n" + write + back + branch + WAIT)) == 1
    assert overwritten(HEAD + WAIT + branch + ".L_x_2:\n" + write + WAIT) == []
    # Nobody meets it behind a branch that is always taken.
    assert overwritten(HEAD + branch.replace("@!P0 ", "     ") + write + ".L_x_2:\n" + WAIT) == []


@triton.jit
def product_of_registers(
    a_ptr, b_ptr, out_ptr, size, rows: tl.constexpr, columns: tl.constexpr, inner: tl.constexpr
) -> None:
    """Multiply matrices of which the left one is doubled before, so that it lies in registers."""
    i, j, k = tl.arange(0, rows)[:, None], tl.arange(0, columns)[None, :], tl.arange(0, inner)
    out = tl.zeros((rows, columns), tl.float32)
    for start in range(0, size, inner):
        a = tl.load(a_ptr + i * 4096 + (start + k)[None, :]) * 2
        b = tl.load(b_ptr + (start + k)[:, None] * 4096 + j)
        out = tl.dot(a, b, out)
    tl.store(out_ptr + i * 4096 + j, out)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
def test_a_pipelined_product_of_registers_is_found_and_one_that_is_waited_for_is_not() -> None:
    from benchmarks.ahead_of_time import disassembled

    for num_stages in (1, 2):
        constants = {"rows": 64, "columns": 128, "inner": 64}
        pointers = {"a_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*fp32"}
        signature = {**pointers, "size": "i32", **dict.fromkeys(constants, "constexpr")}
        aligned = {(i,): [["tt.divisibility", 16]] for i in range(4)}
        program = triton.compile(
            ASTSource(product_of_registers, signature, constants, aligned),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": 4, "num_stages": num_stages, "enable_fp_fusion": True},
        )
        assert bool(overwritten(disassembled(program.asm["cubin"]))) == (num_stages > 1)
