"""What the launcher would compile for a call, and what the compiler makes of it: no GPU is needed.

The launcher runs on tensors without memory, with recorders in place of its kernels; each record is then compiled for a
compute capability with what Triton itself makes of the arguments, so that its cache has the program when a GPU asks for
it. Triton must not be in interpreter mode.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature
from vitzoo_kernels.dense import launch, planning
from vitzoo_kernels.dense.extras import Extras
from vitzoo_kernels.dense.plans import Plans

from benchmarks import machine_code

BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
# Bytes of shared memory that one program may have, by compute capability; that of 8.0 also on 8.6 and 8.9.
SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
REGISTERS = 65536
NARROW_LOAD = re.compile(r"(?:ld\.global|cp\.async)\S*\.[bu]16\s")
# ptxas: asynchronous products that it makes wait for each other.
SERIALIZED = re.compile(r"C7510|C7515|serializ")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of attention, as far as it decides what is compiled.

    Args:
        dtype: of q, k and v.
        head_dim: D.
        num_queries: N_q.
        num_keys: N_k.
        num_heads: H.
        batch: B.
        bias: whether a bias (H, N_q, N_k) is added.
        bias_grad: whether its gradient is asked for.
        key_mask: whether keys are masked.
        dropout: whether weights are dropped.
        packed_sequences: whether there are several sequences in one image.
        lse: whether the forward writes lse; without it there is no backward.
        lse_grad: whether lse has a gradient.
        packed: whether q, k and v are one tensor for the launcher too, with one gradient; N_q = N_k.
    """

    dtype: torch.dtype
    head_dim: int
    num_queries: int
    num_keys: int
    num_heads: int = 3
    batch: int = 2
    bias: bool = False
    bias_grad: bool = True
    key_mask: bool = False
    dropout: bool = False
    packed_sequences: bool = False
    lse: bool = True
    lse_grad: bool = True
    packed: bool = False


@dataclass(frozen=True)
class Launch:
    """One launch of one kernel: the kernel and its arguments by name."""

    kernel: Any
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.__name__)


def launches_of(call: Call, capability: int) -> list[Launch]:
    """Return the launches of a call's forward and backward on such a GPU, in order.

    Raises:
        RuntimeError: Triton's interpreter is on, which compiles nothing.
    """
    if not isinstance(planning.attention_forward_kernel, JITFunction):
        raise RuntimeError("TRITON_INTERPRET=1 is set: the interpreter compiles nothing; unset it")
    # In a packed tensor, as in a ViT.
    for_queries, for_keys = (
        torch.empty(call.batch, tokens, 3, call.num_heads, call.head_dim, dtype=call.dtype, device="meta")
        for tokens in (call.num_queries, call.num_keys)
    )
    inputs = (for_queries,) if call.packed else (for_queries.select(2, 0), *for_keys.unbind(2)[1:])
    places = torch.empty(call.batch + 1, dtype=torch.int32, device="meta") if call.packed_sequences else None
    extras = Extras(
        bias=torch.empty(call.num_heads, call.num_queries, call.num_keys, dtype=call.dtype, device="meta")
        if call.bias
        else None,
        key_mask=torch.empty(call.batch, call.num_keys, dtype=torch.bool, device="meta") if call.key_mask else None,
        dropout_p=0.1 if call.dropout else 0.0,
        seed=torch.empty(2, dtype=torch.int64, device="meta") if call.dropout else None,
        cu_q=places,
        cu_k=places,
        max_q=call.num_queries,
        max_k=call.num_keys,
    )
    with recorded(divmod(capability, 10)) as records:
        out, lse = launch.attention_forward(inputs, None, extras, with_lse=call.lse)
        if lse is not None:
            dlse = lse if call.lse_grad else None
            launch.attention_backward(out, dlse, inputs, out, lse, None, extras, bias_grad=call.bias and call.bias_grad)
    return records


@contextmanager
def recorded(capability: tuple[int, int]) -> Iterator[list[Launch]]:
    """Let the launcher record its launches for such a GPU, whatever the device of the tensors."""
    records: list[Launch] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel, self.arg_names = kernel, kernel.arg_names

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **arguments: records.append(Launch(self.kernel, arguments))

    with (
        mock.patch.object(planning, "_check_device"),
        mock.patch.object(planning, "_capability", return_value=capability),
        mock.patch.object(launch, "_plans", Plans()),
    ):
        names = [name for name in vars(planning) if name.endswith("_kernel")]
        recorders = {name: Recorder(getattr(planning, name)) for name in names}
        with mock.patch.multiple(planning, **recorders):
            yield records


@dataclass(frozen=True)
class Program:
    """A compiled launch."""

    launch: Launch
    capability: int
    compiled: Any

    @property
    def ptx(self) -> str:
        """Its PTX."""
        return str(self.compiled.asm["ptx"])

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a program."""
        return int(self.compiled.metadata.shared)

    @cached_property
    def usage(self) -> tuple[int, int]:
        """Registers of a thread, and bytes that it spills to the stack; these kernels have no other use for one."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.compiled.asm["cubin"])
            file.flush()
            command = [BIN / "cuobjdump", "--dump-resource-usage", file.name]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(re.findall(r"REG:(\d+)", text)[0]), sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", text)))

    @property
    def product(self) -> str:
        """The widest instruction that multiplies matrices, or '-'."""
        return next((name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in self.ptx), "-")

    @property
    def narrow_loads(self) -> int:
        """Loads of a single 16-bit element: none but of tiles too small for a thread to have more."""
        return len(NARROW_LOAD.findall(self.ptx))

    @cached_property
    def serialized(self) -> int:
        """How often the assembler says that asynchronous products had to run one after the other."""
        if self.capability != 90:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "kernel.ptx"
            source.write_text(self.ptx)
            # There are two assemblers; which one Hopper has changes between versions.
            assembler = get_ptxas(self.capability).path
            command = [assembler, "-v", "--gpu-name=sm_90a", source, "-o", Path(folder) / "kernel.cubin"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return sum(bool(SERIALIZED.search(line)) for line in text.splitlines())

    @cached_property
    def overwritten(self) -> list[str]:
        """Products of which a register is written before anything waits for them."""
        if self.capability != 90:
            return []
        return machine_code.overwritten(disassembled(self.compiled.asm["cubin"]))

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """A sentence for every limit that the program breaks."""
        registers, spilled = self.usage
        warps, limit = self.launch.arguments["num_warps"], SHARED_LIMIT[self.capability]
        found = []
        if spilled:
            found.append(f"spills {spilled} bytes of registers")
        if registers * warps * 32 > REGISTERS:
            found.append(f"{registers} registers x {warps} warps pass the {REGISTERS} of a multiprocessor")
        if self.shared > limit:
            found.append(f"{self.shared} bytes of shared memory pass the {limit} of sm_{self.capability}")
        if self.serialized:
            found.append(f"ptxas serializes {self.serialized} asynchronous products")
        if self.overwritten:
            found.append(
                f"the registers of {len(self.overwritten)} products are written before anything waits for them"
            )
        return tuple(found)


def disassembled(cubin: bytes) -> str:
    """Return the machine code of a compiled program as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [BIN / "nvdisasm", "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled(record: Launch, capability: int) -> Program:
    """Compile a launch for a compute capability such as 90, as Triton would at its first call."""
    source, target, options = _asked(record, capability)
    return Program(record, capability, triton.compile(source, target=target, options=vars(options)))


def same_program(record: Launch, capability: int) -> Hashable:
    """Return what two launches have in common when they run the same program."""
    source, _, options = _asked(record, capability)
    return source.hash(), options.hash()


def _asked(record: Launch, capability: int) -> tuple[ASTSource, GPUTarget, Any]:
    kernel, target = record.kernel, GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(**record.arguments)
    packed = kernel._pack_args(backend, record.arguments, bound, specialization, options)
    options, signature, constants, attributes = packed
    return ASTSource(kernel, signature, constants, attributes), target, options
