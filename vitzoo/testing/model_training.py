"""Checks of how a model attends and trains: the backend in every layer, checkpointing, groups of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import vitzoo
from vitzoo.attention.maps import attention_layers
from vitzoo.errors import InputError
from vitzoo.testing.modules import is_close
from vitzoo.testing.tiny import SPY, spied_attention
from vitzoo.testing.zoo import Model


def check_attention(model: Model) -> None:
    """The chosen backend runs in every attention layer, and attention runs nowhere else."""
    image, plain = model.inputs(), model.module()
    try:
        attention_layers(plain)
    except InputError as error:
        raise AssertionError(f"{error}: a layer keeps its `attend` as an attribute of that name") from error
    with spied_attention() as calls:
        for how, module in (
            ("create(attn=...)", model.module(attn=SPY)),
            ("set_attention", vitzoo.set_attention(plain, SPY)),
        ):
            layers = attention_layers(module)
            odd = [name for name, layer in layers.items() if not isinstance(getattr(layer, "head_dim", None), int)]
            assert not odd, f"the attention layers {', '.join(odd)} have no head_dim, which tells who can run them"
            ran = dict.fromkeys(layers, 0)
            hooks = [_count(layer, ran, name) for name, layer in layers.items()]
            calls.options.clear()
            with torch.no_grad(), _sdpa_calls() as others:
                module(image)
            for hook in hooks:
                hook.remove()
            assert len(calls) >= sum(ran.values()) > 0, (
                f"after {how} {sum(ran.values())} attention layers ran, and called the chosen backend {len(calls)} "
                "times"
            )
            idle = [name for name, count in ran.items() if not count]
            assert not idle, f"after {how} the attention layers {', '.join(idle)} never ran"
            assert not others, (
                f"after {how} the model called scaled_dot_product_attention itself {len(others)} times: attention goes "
                "through the layer's `attend`, so that the choice of a backend holds"
            )


def check_grad_checkpointing(model: Model) -> None:
    """Checkpointing runs the forward again in the backward, and changes no number."""
    image = model.inputs()
    results = []
    with spied_attention() as calls:
        for enable in (False, True):
            module = model.module(attn=SPY).train()
            module.set_grad_checkpointing(enable)
            torch.manual_seed(1)
            logits = module(image)
            forward = len(calls)
            torch.manual_seed(2)
            torch.autograd.backward((logits * torch.randn_like(logits)).sum())
            again = len(calls) - forward
            calls.options.clear()
            grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            results.append((logits.detach(), grads, again))
    (plain, grads, _), (checkpointed, other, again) = results
    assert again > 0, "after set_grad_checkpointing() the backward runs no attention again: the switch does nothing"
    assert is_close(plain, checkpointed), "gradient checkpointing changes the logits"
    assert grads.keys() == other.keys(), "with gradient checkpointing the gradient reaches other parameters"
    wrong = [name for name, grad in grads.items() if not is_close(grad, other[name])]
    assert not wrong, f"gradient checkpointing changes the gradients of {', '.join(wrong)}"


def check_groups(model: Model) -> None:
    """`no_weight_decay` names parameters, and group_matcher sorts every one before the head into a layer."""
    module = model.module(device="meta")
    kept = module.no_weight_decay()
    assert isinstance(kept, set | frozenset), f"no_weight_decay() gives a {type(kept).__name__}, not a set of names"
    assert all(isinstance(name, str) for name in kept), f"no_weight_decay() gives {kept!r}, not a set of names"
    torch.autograd.backward(module.forward_features(model.inputs().to("meta")).sum())
    # Coarse groups may leave the last norm to the head, as timm's do.
    for pattern in _patterns(module.group_matcher(coarse=True)):
        re.compile(pattern)
    patterns = list(_patterns(module.group_matcher(coarse=False)))
    lost = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not any(re.match(pattern, name) for pattern in patterns)
    ]
    shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
    assert not lost, (
        f"group_matcher() sorts {shown} into no layer; what it leaves out counts as the head, and these come before it"
    )


def _count(layer: Any, ran: dict[str, int], name: str) -> Any:
    def hook(*_: Any) -> None:
        ran[name] += 1

    return layer.register_forward_hook(hook)


@contextmanager
def _sdpa_calls() -> Iterator[list[Tensor]]:
    """Keep the queries with which anything inside the block calls torch's attention."""
    seen: list[Tensor] = []
    original = F.scaled_dot_product_attention

    def spy(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(query)
        return original(query, *args, **kwargs)

    with mock.patch.object(F, "scaled_dot_product_attention", spy):
        yield seen


def _patterns(groups: dict[str, Any]) -> Iterator[str]:
    for value in groups.values():
        if isinstance(value, str):
            yield value
        else:
            yield from (pattern for pattern, _ in value)
