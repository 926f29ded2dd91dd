"""What the tests of the kernels share: random inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


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
