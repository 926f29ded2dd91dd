"""What a model costs at a size, without running it: parameters, operations, memory for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vitzoo.factory import create


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a model costs.

    Args:
        img_size: (height, width) of the images, in pixels.
        batch_size: images at once.
        params: number of parameters.
        param_bytes: their memory in float32.
        macs: multiply-adds of one forward pass in matrix products and convolutions; the figure most papers call FLOPs.
        flops: two operations a multiply-add.
        activation_bytes: what autograd keeps from forward to backward in float32, parameters aside.
    """

    img_size: tuple[int, int]
    batch_size: int
    params: int
    param_bytes: int
    macs: int
    flops: int
    activation_bytes: int


def profile(name: str, *, size: tuple[int, int] | None = None, batch_size: int = 1, **config: Any) -> Profile:
    """Return what a model costs, computed on tensors without memory, so that any size can be asked for.

    Args:
        name: a model name.
        size: (height, width) of the images; the model's own when None.
        batch_size: images at once.
        **config: settings to change.

    Raises:
        UnknownNameError: no such model.
        InputError: the patches do not divide the images.
    """
    # The reference backend holds the products of attention apart, where the counter sees them.
    model: Any = create(name, attn="reference", device="meta", **config).requires_grad_(False)
    size = size or model.config.img_size
    shape = (batch_size, model.config.in_chans, *size)
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.empty(shape, device="meta"))
    flops = counter.get_total_flops()
    params = list(model.parameters())
    return Profile(
        img_size=size,
        batch_size=batch_size,
        params=sum(parameter.numel() for parameter in params),
        param_bytes=sum(parameter.numel() * parameter.element_size() for parameter in params),
        macs=flops // 2,
        flops=flops,
        activation_bytes=_saved_bytes(name, shape, config),
    )


def _saved_bytes(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> int:
    """Return the bytes that autograd keeps with the backend that `attn="auto"` runs on a CPU; each storage once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    model = create(name, device="meta", **config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            # Held until the end: a freed storage's number may be given to another.
            output = model(torch.empty(shape))
    del output
    return sum(storage.nbytes() for number, storage in kept.items() if number not in own)
