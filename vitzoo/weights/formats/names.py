"""Tables of names that are read both ways, and the forms in which queries, keys and values are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitzoo.errors import CheckpointError
from vitzoo.weights.report import Note

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Names:
    """A table from vitzoo's names to a format's; a name stands for all tensors of the module it names.

    Args:
        root: {vitzoo's: the format's} outside the blocks.
        block: what the format has for 'blocks.{i}.', such as 'encoder.layer.{i}.'.
        inner: {vitzoo's: the format's} inside a block.
    """

    root: Mapping[str, str]
    block: str
    inner: Mapping[str, str]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under vitzoo's names; those that the table does not name keep theirs."""
        pattern = re.compile(re.escape(self.block).replace(r"\{i\}", r"(\d+)") + "(.+)")
        root = {theirs: ours for ours, theirs in self.root.items()}
        inner = {theirs: ours for ours, theirs in self.inner.items()}
        result = {}
        for name, tensor in state.items():
            match = pattern.fullmatch(name)
            if match is not None and (found := _renamed(match[2], inner)) is not None:
                result[f"blocks.{match[1]}.{found}"] = tensor
            else:
                result[_renamed(name, root) or name] = tensor
        return result

    def to_theirs(self, state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
        """Return the tensors under the format's names.

        Raises:
            CheckpointError: a tensor has no name there.
        """
        result, left = {}, []
        for name, tensor in state.items():
            match = BLOCK.fullmatch(name)
            found = _renamed(name, self.root) if match is None else _renamed(match[2], self.inner)
            if found is None:
                left.append(name)
            else:
                result[found if match is None else self.block.format(i=match[1]) + found] = tensor
        if left:
            raise CheckpointError(f"format {format!r} has no name for {', '.join(left[:4])} ({len(left)} tensors)")
        return result


def without_prefix(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the tensors with the first of the prefixes that a name has taken off."""
    result = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        result[name.removeprefix(prefix)] = tensor
    return result


def drop(state: dict[str, Tensor], pattern: str, why: str) -> list[Note]:
    """Take the tensors whose whole name matches out of `state`; return a note when there were any."""
    names = [name for name in state if re.fullmatch(pattern, name)]
    for name in names:
        del state[name]
    if not names:
        return []
    what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return [Note(action="dropped", what=what, why=why)]


def depth_of(names: Iterable[str]) -> int:
    """Return the number of blocks among vitzoo's names.

    Raises:
        CheckpointError: they are not numbered from 0 without a gap.
    """
    numbers = {int(match[1]) for name in names if (match := BLOCK.match(name)) is not None}
    if not numbers:
        raise CheckpointError("these weights hold no blocks under the names of their format; nothing was loaded")
    if numbers != set(range(len(numbers))):
        raise CheckpointError(
            f"the blocks of these weights are numbered {sorted(numbers)[:6]}, not 0, 1, 2 ...; nothing was loaded"
        )
    return len(numbers)


def fuse_qkv(state: dict[str, Tensor]) -> tuple[bool | str, list[Note]]:
    """Put the three projections of every block into one, in place.

    Returns:
        what `qkv_bias` the blocks have (True, False or 'qv'), and a note.

    Raises:
        CheckpointError: a block lacks one of the projections, or the blocks have different biases.
    """
    kinds: set[bool | str] = set()
    for i in range(depth_of(state)):
        prefix = f"blocks.{i}.attn."
        absent = [name for name in QKV if f"{prefix}{name}.weight" not in state]
        if absent:
            raise CheckpointError(f"block {i} of these weights has no {', '.join(absent)}; nothing was loaded")
        weights = [state.pop(f"{prefix}{name}.weight") for name in QKV]
        biases = [state.pop(f"{prefix}{name}.bias", None) for name in QKV]
        state[f"{prefix}qkv.weight"] = torch.cat(weights)
        has = tuple(bias is not None for bias in biases)
        q, k, v = biases
        if has == (True, False, True):
            assert q is not None
            assert v is not None
            state[f"{prefix}q_bias"], state[f"{prefix}v_bias"] = q, v
            kinds.add("qv")
        elif any(has):
            zeros = torch.zeros_like(weights[0][:, 0])
            state[f"{prefix}qkv.bias"] = torch.cat([zeros if bias is None else bias for bias in (q, k, v)])
            kinds.add(True)
        else:
            kinds.add(False)
    if len(kinds) != 1:
        raise CheckpointError("the blocks of these weights do not all have the same biases of q, k and v")
    kind = kinds.pop()
    why = "three projections in one" + (", and k has no bias" if kind == "qv" else "")
    return kind, [Note(action="converted", what="blocks.*.attn.qkv", why=why)]


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one projection to each of q, k and v; absent biases stay absent."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, _, last = name.rpartition("attn.")
        if prefix and last in ("qkv.weight", "qkv.bias"):
            parts = tensor.chunk(3)
            result |= {f"{prefix}attn.{part}{last[3:]}": value for part, value in zip(QKV, parts, strict=True)}
        elif prefix and last in ("q_bias", "v_bias"):
            result[f"{prefix}attn.{last[0]}_proj.bias"] = tensor
        else:
            result[name] = tensor
    return result


def with_k_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `qkv.bias` where q and v alone had a bias; the bias of k is 0."""
    result = dict(state)
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        prefix = name.removesuffix("q_bias")
        q, v = result.pop(name), result.pop(f"{prefix}v_bias")
        result[f"{prefix}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return result


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    if name in table:
        return table[name]
    module, dot, last = name.rpartition(".")
    return f"{table[module]}.{last}" if dot and module in table else None
