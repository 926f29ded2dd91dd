"""All that the benchmarks know of how vitzoo_kernels launches: change this file when the launcher changes.

Launches are recorded, not described: the launcher runs on CPU tensors, with a driver that names a GPU and has none, and
Triton compiles just what it would compile there. No signature is written down a second time.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from vitzoo_kernels import attention
from vitzoo_kernels.dense import configs, launch
from vitzoo_kernels.dense.configs import TileConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
HEAD_DIMS = (16, 32, 48, 64, 72, 80, 88, 96, 104, 112, 128)
# One for every bucket, and the lengths that end in every tail a ViT has.
TOKENS = (50, 197, 257, 577)
# Kernels without a product of matrices.
NO_TENSOR_CORES = ("attention_delta_kernel", "dropout_mask_kernel")


@dataclass(frozen=True)
class Launch:
    """One compiled kernel, as the launcher asked for it.

    Args:
        name: of the kernel.
        config: the constants it was compiled with, and its warps and stages, for people.
        num_warps: warps of a program.
        program: the compiled kernel: `asm`, `metadata` and `hash`.
        log: what ptxas said of it with -v.
        tensor_cores: whether 16-bit inputs must be multiplied by tensor cores.
    """

    name: str
    config: str
    num_warps: int
    program: Any
    log: str
    tensor_cores: bool


def shipped_launches(
    capability: int, dtype: str, head_dim: int, tokens: Sequence[int], *, backward: bool = True
) -> list[Launch]:
    """Return what forward and backward of a packed ViT attention launch on a GPU, each program once, none run."""
    with recording(capability) as found, matmul_precision("high" if dtype == "tf32" else "highest"):
        for count in tokens:
            qkv = torch.zeros(1, count, 3, 2, head_dim, dtype=DTYPES[dtype], requires_grad=backward)
            out = attention(*qkv.unbind(2))
            if backward:
                torch.autograd.grad(out, qkv, torch.zeros_like(out))
    return found


@contextlib.contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
    """Compile what is launched inside, for a GPU of this capability (90 is 9.0), and collect the distinct programs.

    Raises:
        RuntimeError: Triton's interpreter is on, which compiles nothing.
    """
    if not isinstance(launch.attention_forward_kernel, JITFunction):
        raise RuntimeError("TRITON_INTERPRET=1 is set: the interpreter compiles nothing; unset it")
    found: list[Launch] = []
    run, check_device, driver = JITFunction.run, launch._check_device, triton.runtime.driver._active

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()) as log:
            program = run(kernel, *args, grid=grid, warmup=True, **kwargs)
        if all(program.hash != known.program.hash for known in found):
            values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
            shown = [f"{name}={value}" for name, value in values.items() if name.isupper() and name != "HEAD_DIM"]
            config = " ".join([*shown, f"warps={kwargs['num_warps']}", f"stages={kwargs['num_stages']}"])
            name, tensor_cores = kernel.__name__, kernel.__name__ not in NO_TENSOR_CORES
            found.append(Launch(name, config, kwargs["num_warps"], program, log.getvalue(), tensor_cores))
        return program

    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        # A program from Triton's cache on disk comes without a log.
        triton.knobs.compilation.always_compile = True
        JITFunction.run, launch._check_device = record, lambda q: None
        triton.runtime.driver.set_active(_NoGpu(capability))
        try:
            yield found
        finally:
            JITFunction.run, launch._check_device = run, check_device
            triton.runtime.driver._active = driver


# Lengths that share a configuration: the longest of them, and the one it is timed at.
BUCKETS = {64: 50, 272: 197, 768: 577, 1536: 1025, 2**31: 4097}
TABLES = {"forward": "FORWARD", "backward_kv": "BACKWARD_KV", "backward_q": "BACKWARD_Q"}


@dataclass(frozen=True, order=True)
class Problem:
    """One entry of the configuration table: what a tuning run chooses a configuration for."""

    kernel: str
    dtype: str
    head_dim: int
    max_tokens: int

    @property
    def tokens(self) -> int:
        """The length that stands for all up to `max_tokens`."""
        return BUCKETS[self.max_tokens]


def candidates(problem: Problem) -> list[TileConfig]:
    """Return the configurations to try, the one that ships first."""
    shipped = getattr(configs, TABLES[problem.kernel])[table_key(problem)]
    blocks = (32, 64, 128) if DTYPES[problem.dtype].itemsize == 2 else (16, 32, 64)
    grid = product(blocks, blocks, (4, 8), (1, 2, 3))
    # More than this cannot be held in registers by the warps that there are.
    tried = [TileConfig(*sizes) for sizes in grid if sizes[0] * sizes[1] <= 2048 * sizes[2]]
    return list(dict.fromkeys([shipped, *tried]))


def table_key(problem: Problem) -> tuple[int, int]:
    """Return the key of the launcher's table: bytes of an element, and the head dim as the kernel rounds it up."""
    size = DTYPES[problem.dtype].itemsize
    return size, min(d for s, d in getattr(configs, TABLES[problem.kernel]) if s == size and d >= problem.head_dim)


@contextlib.contextmanager
def configured(problem: Problem, config: TileConfig) -> Iterator[None]:
    """Make the launcher use a configuration for this problem."""
    table, key = getattr(configs, TABLES[problem.kernel]), table_key(problem)
    before = table[key]
    table[key] = config
    try:
        yield
    finally:
        table[key] = before


def compiled(problem: Problem, config: TileConfig, capability: int) -> list[Launch]:
    """Return the problem's kernel, compiled with a configuration."""
    with configured(problem, config):
        backward = problem.kernel != "forward"
        launches = shipped_launches(capability, problem.dtype, problem.head_dim, [problem.tokens], backward=backward)
    return [found for found in launches if problem.kernel in found.name]


def bare_forward(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object] | None:
    """Return the launch of the compiled forward kernel alone, the least that a call costs; None without a GPU."""
    if not q.is_cuda:
        return None
    seen: dict[str, Any] = {}
    run = JITFunction.run

    def remember(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        program = run(kernel, *args, grid=grid, warmup=warmup, **kwargs)
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        seen.update(program=program, grid=(*grid, 1, 1)[:3], arguments=[values[name] for name in kernel.arg_names])
        return program

    JITFunction.run = remember
    try:
        attention(q, k, v)
    finally:
        JITFunction.run = run
    if not seen:
        raise RuntimeError("no launch was seen: the launcher no longer goes through JITFunction.run")
    launcher, arguments = seen["program"][seen["grid"]], seen["arguments"]
    return lambda: launcher(*arguments)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set how float32 products are rounded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _NoGpu:
    """What Triton asks its driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        # Triton keeps programs by device in memory: each recording is a device of its own, as those come without a log.
        self._device = time.monotonic_ns()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._device

    def get_current_stream(self, device: int) -> int:
        return 0
