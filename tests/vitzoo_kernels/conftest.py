"""What the tests of the kernels share: random inputs, and an interpreter that wastes less time."""

import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
import triton.language as tl
from torch import Tensor
from vitzoo_kernels.dense import configs

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def random_qkv() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return a function that draws q, (B, N_q, H, D), and k and v, (B, N_k, H, D)."""

    def draw(
        batch: int,
        num_queries: int,
        num_keys: int,
        num_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        seed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = (num_queries, num_keys, num_keys)
        shapes = [(batch, length, num_heads, head_dim) for length in lengths]
        q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
        return q, k, v

    return draw


@pytest.fixture
def guarded_results(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Put all that the kernels write in the middle of memory that is NaN, and yield what has been asked for.

    NaN inside then shows what was not written; that nothing beside was is checked at the end.
    """
    from vitzoo_kernels.dense import launch

    margin, memories, results = 80_000, [], []  # more than a tile of rows

    def guarded_empty_like(x: Tensor) -> Tensor:
        memories.append(torch.full((x.numel() + 2 * margin,), torch.nan, dtype=x.dtype, device=x.device))
        results.append(memories[-1][margin:-margin].view(x.shape))
        return results[-1]

    with monkeypatch.context() as patch:
        patch.setattr(launch, "empty_like", guarded_empty_like)
        yield results
    assert memories
    for memory in memories:
        assert memory[:margin].isnan().all()
        assert memory[-margin:].isnan().all()


@functools.cache
def languages_of(function: Callable) -> list[ModuleType]:
    return [x for x in function.__globals__.values() if x is tl or x is tl.core]


@pytest.fixture(autouse=True)
def language_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Triton's interpreter from replacing its language again at each call of a function, half of its time.

    It replaces it for a launch, and once more for each function that the kernel calls.
    """
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    replace = interpreter._patch_lang

    def replace_once(function):
        if any(tl.core.is_builtin(language.load) for language in languages_of(function)):
            return replace(function)
        return interpreter._LangPatchScope()  # nothing to restore

    monkeypatch.setattr(interpreter, "_patch_lang", replace_once)


@pytest.fixture(autouse=True)
def tiles_for_the_interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give float32 larger tiles in the interpreter, whose time goes by their number; `shipped_tiles` keeps the small ones.

    Float16 has its shipped tiles always.
    """
    if not INTERPRETED or request.node.get_closest_marker("shipped_tiles"):
        return
    from vitzoo_kernels.dense import launch, plans

    monkeypatch.setattr(launch, "_plans", plans.Plans())
    find = configs.find

    def larger(capability, version, key, num_keys):
        if key.products == "16" or key.kernel == "backward_whole":
            return find(capability, version, key, num_keys)
        side = 32 if num_keys <= 96 else 64
        return configs.TileConfig(side, side, 4, 1)

    monkeypatch.setattr(configs, "find", larger)


@pytest.fixture
def whole_heads(tiles_for_the_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the forward give each head a program of its own, in float32 too, and see that it did."""
    from vitzoo_kernels.dense import launch, planning

    find = configs.find

    def found(capability, version, key, num_keys):
        if key.kernel == "forward_whole":
            return configs.TileConfig(32, 64, 4, 1) if num_keys <= 272 else None
        return find(capability, version, key, num_keys)

    monkeypatch.setattr(configs, "find", found)
    monkeypatch.setattr(configs, "MANY_HEADS", 1)
    monkeypatch.setattr(launch, "_plans", type(launch._plans)())
    yield
    kernels = [plan.kernel for plans in launch._plans.values() for plan in plans]
    assert planning.attention_forward_whole_kernel in kernels
