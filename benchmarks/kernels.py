"""What the benchmarks know of the launcher's tiles and of its launches; change this file when the launcher changes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction
from vitzoo_kernels import attention
from vitzoo_kernels.dense import configs, launch
from vitzoo_kernels.dense.configs import Key, TileConfig
from vitzoo_kernels.dense.plans import Plans

from benchmarks.ahead_of_time import Call, Launch, launches_of
from benchmarks.shapes import Shape

# One program does a whole head; where they do not run, one does a tile.
WHOLE = ("forward_whole", "backward_whole")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}
# Lengths that share an entry: the longest of them, and the one that stands for them.
BUCKETS = {64: 50, 128: 100, 256: 197, 272: 257, 768: 577, 1536: 1025, configs.UNBOUNDED: 4097}


@dataclass(frozen=True, order=True)
class Problem:
    """One entry of a table: what tiles are chosen for.

    Args:
        kernel: one of `configs.KERNELS`.
        dtype: one of `DTYPES`.
        head_dim: D.
        max_tokens: the most keys that it stands for.
        features: one of `configs.FEATURES`.
    """

    kernel: str
    dtype: str
    head_dim: int
    max_tokens: int
    features: str = "plain"

    @property
    def tokens(self) -> int:
        """The length that stands for all up to `max_tokens`."""
        return BUCKETS[self.max_tokens]

    @property
    def key(self) -> Key:
        """What its tiles are found by."""
        products = {"fp32": "ieee", "tf32": "tf32"}.get(self.dtype, "16")
        return Key(self.kernel, self.features, products, -(-self.head_dim // 16) * 16)

    def calls(self, *tokens: int) -> list[Call]:
        """Return the calls that run its kernel with all that its features stand for, at each of these lengths."""
        extras: list[dict[str, bool]] = {
            "plain": [{}],
            "masked": [{"key_mask": True}],
            "ragged": [{"packed_sequences": True}],
            "bias": [{"bias": True, "key_mask": True}],
            "dropout": [{"key_mask": True, "dropout": True}, {"packed_sequences": True, "dropout": True}],
            "rich": [{"bias": True, "key_mask": True, "dropout": True}],
        }[self.features]
        if self.kernel in ("forward_whole", "backward_whole", "backward_bias"):
            extras = extras[:1]
        # The forward gives a head a program of its own only where there are many.
        batch = configs.MANY_HEADS if self.kernel == "forward_whole" else 2
        return [
            Call(
                dtype=DTYPES[self.dtype],
                head_dim=self.head_dim,
                num_queries=count,
                num_keys=count,
                batch=batch,
                bias_grad=self.kernel == "backward_bias",
                **features,
            )
            for features, count in product(extras, tokens or (self.tokens,))
        ]


def buckets(kernel: str) -> list[int]:
    """Return the most tokens of each bucket that a kernel is tuned for."""
    # A whole head's keys must have room on the chip, and its forward is for more than one tile of queries.
    least = {"forward_whole": 64, "backward_whole": 0}
    return [longest for longest in BUCKETS if kernel not in least or least[kernel] < longest <= 272]


def shipped(problem: Problem, capability: int) -> TileConfig | None:
    """Return the tiles that ship for a problem, or None where its kernel does not run it."""
    return configs.find(divmod(capability, 10), triton.__version__, problem.key, problem.tokens)


def candidates(problem: Problem, capability: int) -> list[TileConfig]:
    """Return the tiles to time, those that ship first."""
    if problem.kernel == "backward_whole":
        # All keys stay, and what is loaded ahead is in registers, whatever the stages.
        tried = [TileConfig(rows, problem.max_tokens, warps, 1) for rows, warps in product((16, 32, 64), (4, 8))]
    else:
        blocks = (32, 64, 128) if DTYPES[problem.dtype].itemsize == 2 else (16, 32, 64)
        grid = product(blocks, blocks, (4, 8), (1, 2, 3))
        # More than this cannot be held in registers by the warps that there are.
        tried = [TileConfig(*sizes) for sizes in grid if sizes[0] * sizes[1] <= 2048 * sizes[2]]
    first = shipped(problem, capability)
    return list(dict.fromkeys([*([first] if first else []), *tried]))


@contextlib.contextmanager
def configured(problem: Problem, tiles: TileConfig) -> Iterator[None]:
    """Make the launcher use these tiles for a problem, however many keys there are."""
    find, key = configs.find, problem.key
    # Kernels for tiles run where those for whole heads do not.
    not_whole = dataclasses.replace(key, kernel=key.kernel.split("_")[0] + "_whole")

    def other(capability: tuple[int, int], version: str, asked: Key, num_keys: int) -> TileConfig | None:
        if asked in (key, not_whole):
            return tiles if asked == key else None
        return find(capability, version, asked, num_keys)

    # Plans that were made with other tiles must not be found, nor these later.
    with mock.patch.object(configs, "find", other), mock.patch.object(launch, "_plans", Plans()):
        yield


def timed_calls(shape: Shape, dtype: torch.dtype) -> list[Call]:
    """Return the calls that are timed at a shape: q, k and v have gradients of their own, or one for all."""
    return [
        Call(
            dtype=dtype,
            head_dim=shape.head_dim,
            num_queries=shape.tokens,
            num_keys=shape.tokens,
            num_heads=shape.heads,
            batch=shape.batch,
            lse_grad=False,
            packed=packed,
        )
        for packed in (False, True)
    ]


def launches(problem: Problem, tiles: TileConfig, capability: int, calls: Sequence[Call]) -> list[Launch]:
    """Return the launches of a problem's kernel with these tiles, those of each call; no table is asked.

    Raises:
        RuntimeError: the launcher does not use the kernel there.
    """

    def find(_: tuple[int, int], version: str, asked: Key, num_keys: int) -> TileConfig | None:
        # Of the other kernels only that they are launched matters, and that those for whole heads are not.
        other = None if asked.kernel.endswith("whole") else TileConfig(16, 16, 4, 1)
        return tiles if asked == problem.key else other

    found = []
    precision = matmul_precision("high" if problem.dtype == "tf32" else "highest")
    with precision, mock.patch.object(configs, "find", find):
        for call in calls:
            name = f"attention_{problem.kernel}_kernel"
            own = [launch for launch in launches_of(call, capability) if launch.name == name]
            if not own:
                raise RuntimeError(f"the launcher does not use {problem.kernel} for {call}")
            found += own
    return found


def bare_forward(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object]:
    """Return the launch of the compiled forward kernel alone, the least that a call costs."""
    seen: dict[str, Any] = {}
    run = JITFunction.run

    def remember(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        program = run(kernel, *args, grid=grid, warmup=warmup, **kwargs)
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        seen.update(program=program, grid=(*grid, 1, 1)[:3], arguments=[values[name] for name in kernel.arg_names])
        return program

    # A call that has a plan would not ask Triton.
    with mock.patch.object(JITFunction, "run", remember), mock.patch.object(launch, "_plans", Plans()):
        attention(q, k, v)
    if not seen:
        raise RuntimeError("no launch was seen: the launcher no longer goes through JITFunction.run")
    launcher = seen["program"][seen["grid"]]
    # Addresses, as a plan hands them over: of tensors Triton would ask for them at every launch.
    arguments = [x.data_ptr() if isinstance(x, Tensor) else x for x in seen["arguments"]]

    def bare() -> object:
        assert seen, "the tensors live as long as this does"
        return launcher(*arguments)

    return bare


@contextlib.contextmanager
def without(names: Collection[str]) -> Iterator[None]:
    """Make the launcher do without some of `WHOLE`: the kernels for tiles run in their place."""
    find = configs.find

    def other(capability: tuple[int, int], version: str, asked: Key, num_keys: int) -> TileConfig | None:
        return None if asked.kernel in names else find(capability, version, asked, num_keys)

    with mock.patch.object(configs, "find", other), mock.patch.object(launch, "_plans", Plans()):
        yield


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set how float32 products are rounded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
