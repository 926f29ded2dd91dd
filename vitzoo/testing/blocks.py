"""Checks of blocks: shapes, and that everything a block is given takes part.

A block that merges tokens is called as one, and a ViT with it is to refuse what such a block is never given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitzoo.embed.rope import Rotation
from vitzoo.errors import ConfigError, InputError
from vitzoo.registry import Entry
from vitzoo.testing.check import Check
from vitzoo.testing.parts import Kind, Part, part_checks, tokens
from vitzoo.testing.tiny import SPY, TINY, images, spied_attention, tiny

HIDDEN = 7
PREFIX = 3


def run(block: Any, x: Tensor) -> Tensor:
    """Return a block's tokens."""
    return run_merging(block, x)[0] if merges(block) else block(x)


def run_merging(block: Any, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return the tokens and sizes of a block that merges tokens."""
    result = block(x, sizes, PREFIX)
    assert isinstance(result, tuple), f"a block with merges_tokens returns (tokens, sizes); got {type(result).__name__}"
    assert len(result) == 2, f"a block with merges_tokens returns (tokens, sizes); got {len(result)} items"
    return result


def merges(block: Any) -> bool:
    """Return whether a block declares that it returns fewer tokens."""
    return bool(getattr(block, "merges_tokens", False))


BLOCK = Kind(find=lambda model: model.blocks[1], call=run, inputs=tokens)


def block_checks(entry: Entry) -> list[Check]:
    """Return the checks of a block."""
    own = {
        "shape": check_shape,
        "attend": check_attend,
        "attn_drop": check_attn_drop,
        "drop_path": check_drop_path,
        "bias": check_bias,
        "key_mask": check_key_mask,
        "rotation": check_rotation,
    }
    return part_checks(entry, BLOCK, own)


def check_shape(part: Part) -> None:
    """(B, N, C) in and out, for any number of tokens; fewer where it is declared."""
    block = part.module()
    if merges(block):
        _check_merging(block)
        return
    for count in (27, 1, 40):
        x = torch.randn(2, count, TINY["embed_dim"])
        out = block(x)
        assert isinstance(out, Tensor), f"a block returns its tokens; got {type(out).__name__}"
        assert out.shape == x.shape, (
            f"tokens {tuple(x.shape)} come out as {tuple(out.shape)}; a block keeps (B, N, C), unless it declares "
            "merges_tokens = True"
        )


def _check_merging(block: Any) -> None:
    """Fewer tokens, the prefix first and as it was, and the size of each."""
    for count in (27, PREFIX, PREFIX + 1, 40):
        x = torch.randn(2, count, TINY["embed_dim"])
        out, sizes = run_merging(block, x)
        kept = out.shape[1]
        good = PREFIX <= kept <= count and out.shape == (2, kept, TINY["embed_dim"])
        assert good, f"tokens {tuple(x.shape)} with {PREFIX} prefix tokens come out as {tuple(out.shape)}"
        if sizes is None:
            assert kept == count, f"of {count} tokens {kept} come out, and yet sizes is None: every token is one"
            continue
        assert sizes.shape == (2, kept), f"sizes has shape {tuple(sizes.shape)} for {kept} tokens, expected (2, {kept})"
        assert (sizes[:, :PREFIX] == 1).all(), "a prefix token is merged: its size is not 1"
        assert (sizes >= 1).all(), "a token stands for less than one token of the image"
        assert (sizes.sum(dim=1) <= count).all(), f"the sizes of {count} tokens sum up to {sizes.sum(dim=1).tolist()}"
        again, totals = run_merging(block, out.detach(), sizes.detach())
        assert totals is not None, "given sizes, it returns None: what earlier blocks have merged is forgotten"
        assert (totals.sum(dim=1) <= sizes.sum(dim=1)).all(), "given sizes, it returns larger ones in sum"
        assert totals.shape == again.shape[:2], f"sizes has shape {tuple(totals.shape)} for {again.shape[1]} tokens"


def check_attend(part: Part) -> None:
    """Attention runs on the backend that the user chose."""
    with spied_attention() as calls:
        block: Any = tiny(part.entry, attn=SPY).blocks[1]  # type: ignore[index]
        run(block, tokens())
        assert calls, (
            "it never calls the backend that the model was created with: attn=, set_attention and attention_maps would "
            "have no effect; use parts.make_attention() or call parts.attend"
        )


def check_attn_drop(part: Part) -> None:
    """The dropout of attention weights reaches the backend while training, and never else."""
    with spied_attention() as calls:
        block: Any = tiny(part.entry, attn=SPY, attn_drop_rate=0.25).blocks[1]  # type: ignore[index]
        run(block, tokens())
        evaluating = [call.get("dropout_p", 0.0) for call in calls.options]
        calls.options.clear()
        run(block.train(), tokens())
        training = [call.get("dropout_p", 0.0) for call in calls.options]
    assert set(evaluating) <= {0.0}, f"in eval mode the backend is called with dropout_p={evaluating}"
    assert set(training) == {0.25}, (
        f"attn_drop=0.25 while training, but the backend is called with dropout_p={training}"
    )


def check_drop_path(part: Part) -> None:
    """Stochastic depth drops the branches of some images while training."""
    block = part.module(drop_path_rate=0.5)
    x = tokens()[:1].expand(32, -1, -1).contiguous()
    with torch.no_grad():
        out = run(block.train(), x)
    assert not (out == out[:1]).all(), (
        "with drop_path=0.5, 32 equal images come out equal while training: parts.make_drop_path() is not used"
    )


def check_bias(part: Part) -> None:
    """A bias is added to the scores: -inf hides a token from the others."""
    bias = torch.zeros(1, 1, 27, 27)
    bias[..., HIDDEN] = -torch.inf
    if merges(part.module()):
        _check_mask_refused(part, bias)
        return
    _check_hidden(part, "bias", bias)


def check_key_mask(part: Part) -> None:
    """A key mask hides a token from the others."""
    mask = torch.ones(2, 27, dtype=torch.bool)
    mask[:, HIDDEN] = False
    if merges(part.module()):
        _check_mask_refused(part, mask[:, None, None])
        return
    _check_hidden(part, "key_mask", mask)


def check_rotation(part: Part) -> None:
    """Queries and keys are rotated by the rope."""
    block, x = part.module(), tokens()
    if merges(block):
        try:
            tiny(part.entry, rope="axial")
        except ConfigError:
            return
        raise AssertionError("it merges tokens, and yet a ViT with it and a rope is built")
    angle = torch.randn(27, 1, 8).repeat_interleave(2, dim=-1)
    with torch.no_grad():
        plain, turned = block(x), block(x, rotation=Rotation(angle.sin(), angle.cos(), False))
    assert not torch.equal(plain, turned), "rotation= changes nothing: a model's rope would have no effect"


def _check_mask_refused(part: Part, mask: Tensor) -> None:
    try:
        tiny(part.entry)(images(), attn_mask=mask)
    except InputError:
        return
    raise AssertionError("it merges tokens, and yet a ViT with it takes an attn_mask of the tokens there were")


def _check_hidden(part: Part, name: str, value: Tensor) -> None:
    block, x = part.module(), tokens()
    other = x.clone()
    other[:, HIDDEN] = torch.randn_like(other[:, HIDDEN])
    seen = [i for i in range(27) if i != HIDDEN]
    with torch.no_grad():
        leak = (block(x, **{name: value}) - block(other, **{name: value}))[:, seen].abs().max()
        visible = (block(x) - block(other))[:, seen].abs().max()
    assert visible > 0, "no token depends on the others: the block does not attend"
    assert leak == 0, (
        f"{name}= hides token {HIDDEN}, and yet the others change with it by up to {float(leak):.2e}: {name} is not "
        "handed to the attention"
    )
