"""What the tests of the kernels share: random inputs."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from vitzoo_kernels.dense import configs


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

    margin, memories, results = 25_000, [], []  # more than a tile of rows

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


@pytest.fixture(autouse=True)
def tiles_for_the_interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give float32 larger tiles in the interpreter, whose time goes by their number; `shipped_tiles` keeps the small ones.

    Float16 has its shipped tiles always.
    """
    if os.environ.get("TRITON_INTERPRET") != "1" or request.node.get_closest_marker("shipped_tiles"):
        return
    from vitzoo_kernels.dense import launch, plans

    monkeypatch.setattr(launch, "_plans", plans.Plans())
    find = configs.find

    def larger(capability, version, key, num_keys):
        if key.products == "16" or key.kernel == "backward_whole":
            return find(capability, version, key, num_keys)
        return configs.TileConfig(32, 32, 4, 1)

    monkeypatch.setattr(configs, "find", larger)
