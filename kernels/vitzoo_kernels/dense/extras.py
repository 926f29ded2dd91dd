"""What a call of attention may have beside q, k, v and a scale."""

from typing import NamedTuple

import torch
from torch import Tensor


class Extras(NamedTuple):
    """What a call has beside q, k, v and a scale; None or 0 where it has not.

    Args:
        bias: broadcasts to (B, H, N_q, N_k).
        key_mask: (B, N_k) bool.
        dropout_p: share of the weights dropped.
        seed: (2,) int64, seed and offset of the dropout.
        cu_q: (sequences + 1,) int32, where the queries of each packed sequence begin.
        cu_k: the same of the keys.
        max_q: queries of the longest sequence.
        max_k: keys of the longest sequence.
    """

    bias: Tensor | None = None
    key_mask: Tensor | None = None
    dropout_p: float = 0.0
    seed: Tensor | None = None
    cu_q: Tensor | None = None
    cu_k: Tensor | None = None
    max_q: int = 0
    max_k: int = 0

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """The tensors as the kernels take them and in their order; offsets only where sequences are packed."""
        # The kernels are told the strides of the bias alone.
        taken = {
            "bias_ptr": self.bias,
            "key_mask_ptr": None if self.key_mask is None else self.key_mask.view(torch.uint8).contiguous(),
            "seed_ptr": None if self.seed is None or self.dropout_p == 0 else self.seed.contiguous(),
        }
        if self.cu_q is not None and self.cu_k is not None:
            taken |= {"cu_q_ptr": self.cu_q.contiguous(), "cu_k_ptr": self.cu_k.contiguous()}
        return taken

    @property
    def numbers(self) -> tuple[float, int, int]:
        """What is no tensor."""
        return self.dropout_p, self.max_q, self.max_k

    @property
    def bias_strides(self) -> dict[str, int]:
        """The bias's strides over (B, H, N_q, N_k), in elements, 0 where it is broadcast."""
        strides = [0, 0, 0, 0]
        if self.bias is not None:
            for i in range(1, self.bias.ndim + 1):
                strides[-i] = 0 if self.bias.shape[-i] == 1 else self.bias.stride(-i)
        return {f"bias_stride_{axis}": stride for axis, stride in zip("bhmn", strides, strict=True)}

    @property
    def features(self) -> str:
        """What there is to hold for each score, one of `configs.FEATURES`."""
        if self.bias is not None:
            return "bias" if self.dropout_p == 0 else "rich"
        if self.dropout_p > 0:
            return "dropout"
        if self.cu_q is not None:
            return "ragged"
        return "plain" if self.key_mask is None else "masked"

    @property
    def dropout(self) -> dict[str, int | float]:
        """The dropout's numbers, as the kernels take them."""
        keep = 1 - self.dropout_p
        return {"threshold": threshold_of(self.dropout_p), "dropout_scale": 1 / keep if keep else 0.0}


def threshold_of(dropout_p: float) -> int:
    """Return what a random number of 31 bits must reach for its weight to be kept."""
    return min(round(dropout_p * 2**31), 2**31 - 1)
