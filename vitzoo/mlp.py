"""Feed-forward parts. Each is built as `mlp(dim, hidden_dim, bias=..., drop=..., norm=..., **args)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        return x * torch.sigmoid(1.702 * x)


class TanhGELU(nn.GELU):
    """GELU in its tanh approximation, as JAX has it by default (augreg, SigLIP)."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class Mlp(nn.Module):
    """fc1, activation, fc2. The subclasses name the activation.

    Args:
        dim: width C of a token.
        hidden_dim: width of the hidden layer.
        bias: whether both layers have a bias.
        drop: dropout after the activation and after fc2.
        norm: makes the norm of the hidden layer (sub-LN); None for no norm.

    Source: arXiv 2010.11929.
    """

    act_layer: Callable[[], nn.Module]

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        bias: bool = True,
        drop: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = self.act_layer()
        self.norm = norm(hidden_dim) if norm is not None else None
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        x = F.dropout(self.act(self.fc1(x)), self.drop, self.training)
        return F.dropout(self.fc2(x if self.norm is None else self.norm(x)), self.drop, self.training)


class GeluMlp(Mlp):
    """MLP with the exact GELU."""

    act_layer = nn.GELU


class GeluTanhMlp(Mlp):
    """MLP with GELU's tanh approximation."""

    act_layer = TanhGELU


class QuickGeluMlp(Mlp):
    """MLP with x * sigmoid(1.702 x)."""

    act_layer = QuickGELU


class ReluMlp(Mlp):
    """MLP with ReLU."""

    act_layer = nn.ReLU


class SwiGLU(nn.Module):
    """fc2(silu(fc1_g x) * fc1_x x), with gate and value as two layers (DINOv3, EVA-02).

    Args:
        dim: width C of a token.
        hidden_dim: width of the gated hidden layer.
        bias: whether the layers have a bias.
        drop: dropout after the gate and after fc2.
        norm: makes the norm of the hidden layer (sub-LN); None for no norm.
        align_to: round the hidden width up to a multiple of this; 0: as it is.

    Source: arXiv 2002.05202.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        bias: bool = True,
        drop: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        align_to: int = 0,
    ) -> None:
        super().__init__()
        hidden_dim += -hidden_dim % align_to if align_to else 0
        self.fc1_g = nn.Linear(dim, hidden_dim, bias=bias)
        self.fc1_x = nn.Linear(dim, hidden_dim, bias=bias)
        self.norm = norm(hidden_dim) if norm is not None else None
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        x = F.dropout(F.silu(self.fc1_g(x)) * self.fc1_x(x), self.drop, self.training)
        return F.dropout(self.fc2(x if self.norm is None else self.norm(x)), self.drop, self.training)


class PackedSwiGLU(nn.Module):
    """SwiGLU with gate and value as the two halves of one layer, the gate first (DINOv2 giant, EVA-02 tiny and small).

    Args:
        dim: width C of a token.
        hidden_dim: width of the gated hidden layer; fc1 is twice as wide.
        bias: whether the layers have a bias.
        drop: dropout after the gate and after fc2.
        norm: makes the norm of the hidden layer (sub-LN); None for no norm.

    Source: arXiv 2002.05202.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        bias: bool = True,
        drop: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim, bias=bias)
        self.norm = norm(hidden_dim) if norm is not None else None
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        x = F.dropout(F.silu(gate) * value, self.drop, self.training)
        return F.dropout(self.fc2(x if self.norm is None else self.norm(x)), self.drop, self.training)
