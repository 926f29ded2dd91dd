"""Looking into a model's attention: its weights (`attention_maps`) and who ran it (`explain_attention`).

Both wrap each layer's `attend` for one forward pass, so they work for every model whose layers have one. Other threads
may run the model meanwhile, if it is not compiled, and leave no trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import vitzoo_kernels
from torch import Tensor, nn

from vitzoo.attention.caps import Reason
from vitzoo.attention.select import Attend, AttnLike, call_key, problem_of, refusals_of_all, sizes_of
from vitzoo.errors import InputError, suggestion


def attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return {module name: layer} of every layer that attends through an `Attend`.

    Raises:
        InputError: there is none.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(getattr(module, "attend", None), Attend)
    }
    if not layers:
        raise InputError(f"{type(model).__name__} has no attention layer that vitzoo can look into or switch")
    return layers


def set_attention(model: nn.Module, attn: AttnLike) -> nn.Module:
    """Run the model's attention on another backend from now on.

    Args:
        model: a model that `create` made, or any with layers that have an `Attend`.
        attn: 'auto', a backend's name (strict), or several in the order in which to try them.

    Returns:
        The same model.

    Raises:
        UnknownNameError: no backend has such a name.
        BackendUnsupported: none of them can ever run this model; the model is left as it was.
    """
    layers = attention_layers(model).values()
    head_dims = sorted({layer.head_dim for layer in layers if isinstance(layer.head_dim, int)})
    Attend(attn).choose(attn, head_dims=head_dims)
    with _watching:
        for layer in layers:
            _attend_of(layer).choose(attn, head_dims=head_dims)
    return model


@torch.no_grad()
def attention_maps(
    model: nn.Module,
    x: Tensor,
    *,
    layers: str | Sequence[int | str] = "all",
    queries: str | Sequence[int] = "cls",
    heads: str | Sequence[int] = "all",
) -> dict[str, Tensor]:
    """Return the attention weights of chosen queries, on whatever backend the model runs.

    The fused backends do not hold the weights; these rows are computed beside them, in O(N) memory a row.

    Args:
        model: a model whose layers attend through vitzoo.
        x: images (B, in_chans, H, W).
        layers: 'all' blocks, or block numbers (negative ones count from the end), or module names.
        queries: 'cls' for the class token, 'patches', 'all', or token numbers.
        heads: 'all' or head numbers.

    Returns:
        {module name: (B, heads, queries, N_k)} in the order of the layers; rows sum to 1. Of a layer that attends in
        windows, B counts the windows of all images; if it attends several times, one call's follow the other's.

    Raises:
        InputError: a layer, query or head that the model does not have.
    """
    every = attention_layers(model)
    chosen = _choose_layers(every, layers)
    owners = {name: _owner(model, name) for name in chosen}
    if queries == "cls" and not all(getattr(owner, "has_class_token", False) for owner in owners.values()):
        raise InputError(
            "queries='cls' needs a class token, which this model has not; use queries='patches' or numbers"
        )
    maps: dict[str, Tensor] = {}

    def record(name: str, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
        if name not in chosen:
            return
        prefix = getattr(owners[name], "num_prefix_tokens", 0)
        rows = _choose_rows(queries, q.shape[1], prefix) if q.shape[1] == k.shape[1] else list(range(q.shape[1]))
        picked = _choose_numbers("heads", heads, q.shape[2])
        bias = options.get("bias")
        if bias is not None:
            bias = bias.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])[:, picked][:, :, rows]
        weights = vitzoo_kernels.attention_rows(
            q[:, rows][:, :, picked],
            k[:, :, picked],
            scale=options.get("scale"),
            bias=bias,
            key_mask=options.get("key_mask"),
        )
        maps[name] = torch.cat([maps[name], weights]) if name in maps else weights

    with _watched(every, record), _evaluating(model):
        model(x)
    if chosen and not maps:
        raise InputError(
            f"{type(model).__name__} ran none of the layers asked for in this thread, as nn.DataParallel over several "
            "GPUs does; pass the model that it wraps"
        )
    return {name: maps[name] for name in chosen if name in maps}


@dataclass(frozen=True)
class AttentionReport:
    """What `explain_attention` found; printing it gives one line a kind of layer.

    Args:
        lines: for each kind of layer: its layers, the problem in words, what ran, and why not the others.
    """

    lines: tuple[tuple[tuple[str, ...], str, str, dict[str, tuple[Reason, ...]]], ...]

    def __str__(self) -> str:
        text = []
        for names, problem, ran, others in self.lines:
            where = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)} layers)"
            why = [
                f"{name}: {'; '.join(map(str, reasons)) if reasons else 'able, not chosen'}"
                for name, reasons in others.items()
                if name != ran
            ]
            text.append(f"{where}: {ran} ran {problem}. Others: {' | '.join(why)}")
        return "\n".join(text)


def explain_attention(model: nn.Module, x: Tensor) -> AttentionReport:
    """Run the model once, in its present mode, and report which backend ran its attention and why not the others.

    Args:
        model: a model whose layers attend through vitzoo; in training mode the report is for training.
        x: images (B, in_chans, H, W).

    Returns:
        A report that prints.
    """
    every = attention_layers(model)
    kinds: dict[tuple[str, str], list[str]] = {}
    refusals: dict[tuple[str, str], dict[str, tuple[Reason, ...]]] = {}

    def record(name: str, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
        inputs = q, k, v
        key = call_key(inputs, options.get("bias"), options.get("key_mask"), options.get("dropout_p", 0.0))
        problem = problem_of(key, *sizes_of(inputs))
        ran = attend.select(problem).name
        words = (
            f"{problem.n_q} queries x {problem.n_k} keys, head_dim {problem.head_dim}, {problem.dtype} "
            f"on {problem.device}{', with gradients' if problem.needs_grad else ''}"
        )
        names = kinds.setdefault((words, ran), [])
        # A layer with windows may attend several times.
        if name not in names:
            names.append(name)
        refusals[words, ran] = refusals_of_all(problem)

    with torch.set_grad_enabled(model.training and torch.is_grad_enabled()), _watched(every, record):
        model(x)
    return AttentionReport(
        tuple((tuple(names), words, ran, refusals[words, ran]) for (words, ran), names in kinds.items())
    )


# Of two that watch one model, the second would put back what the first put in.
_watching = threading.RLock()


class _Watched(Attend):
    """An Attend that tells what it is called with before it runs."""

    def __init__(self, inner: Attend, tell: Callable[[Tensor, Tensor, Tensor, dict[str, Any]], None]) -> None:
        self.inner, self.tell = inner, tell

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        self.tell(q, k, v, options)
        return self.inner(q, k, v, **options)

    def packed(self, qkv: Tensor, **options: Any) -> Tensor:
        q, k, v = qkv.unbind(2)
        self.tell(q, k, v, options)
        return self.inner.packed(qkv, **options)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # By its own method first, for a layer may do more there than change the flag.
        model.train(modes[model])
        for module, training in modes.items():
            module.training = training


@contextmanager
def _watched(
    layers: dict[str, nn.Module], record: Callable[[str, Attend, Tensor, Tensor, Tensor, dict[str, Any]], None]
) -> Iterator[None]:
    watcher = threading.get_ident()

    def record_own(name: str, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
        # What torch.compile traces cannot ask for its thread.
        if torch.compiler.is_compiling() or threading.get_ident() == watcher:
            record(name, attend, q, k, v, options)

    with _watching:
        plain = {name: _attend_of(layer) for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                layer.attend = _Watched(plain[name], partial(record_own, name, plain[name]))  # type: ignore[assignment]
            yield
        finally:
            for name, layer in layers.items():
                layer.attend = plain[name]  # type: ignore[assignment]


def _attend_of(layer: nn.Module) -> Attend:
    attend = layer.attend
    assert isinstance(attend, Attend)
    return attend


def _owner(model: nn.Module, name: str) -> nn.Module:
    """Return the innermost module around a layer that says what its tokens are; a wrapper of a model does not."""
    while name:
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
        if hasattr(module, "num_prefix_tokens"):
            return module
    return model


def _choose_layers(every: dict[str, nn.Module], layers: str | Sequence[int | str]) -> list[str]:
    blocks = [name for name in every if "blocks." in name] or list(every)
    if layers == "all":
        return blocks
    chosen = []
    asked: Any = [layers] if isinstance(layers, str) else layers
    if not isinstance(asked, Iterable) or not all(isinstance(layer, int | str) for layer in asked):
        raise InputError(f"layers={layers!r} is neither 'all' nor a sequence of block numbers and names, such as [0]")
    for layer in asked:
        if isinstance(layer, str):
            if layer not in every:
                raise InputError(f"no attention layer is named {layer!r}.{suggestion(layer, list(every))}")
            chosen.append(layer)
        else:
            if not -len(blocks) <= layer < len(blocks):
                raise InputError(f"layer {layer} is out of range (possible: {-len(blocks)} to {len(blocks) - 1})")
            chosen.append(blocks[layer])
    return chosen


def _choose_rows(queries: str | Sequence[int], count: int, prefix: int) -> list[int]:
    if queries == "cls":
        return [0]
    if queries == "patches":
        return list(range(prefix, count))
    return _choose_numbers("queries", queries, count, "'cls', 'patches', 'all'")


def _choose_numbers(what: str, chosen: str | Sequence[int], count: int, words: str = "'all'") -> list[int]:
    if chosen == "all":
        return list(range(count))
    numbers: Any = chosen
    if isinstance(chosen, str) or not isinstance(numbers, Iterable) or not all(isinstance(n, int) for n in numbers):
        raise InputError(f"{what}={chosen!r} is neither {words} nor a sequence of numbers, such as [0]")
    for number in chosen:
        if not -count <= int(number) < count:
            raise InputError(f"{what} {number} is out of range (possible: {-count} to {count - 1})")
    return [int(number) % count for number in chosen]
