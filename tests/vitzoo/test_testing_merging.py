"""The kit catches a block that merges tokens and is wrong in one way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wrong import failed, fault, outcomes_of

from vitzoo.block import PreNormBlock
from vitzoo.registry import Registry


class Pairing(PreNormBlock):
    """Puts the mean of the last two patches in their place, as the protocol says."""

    merges_tokens = True

    def forward(self, x: Tensor, sizes: Tensor | None, num_prefix_tokens: int) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        x = super().forward(x)
        if x.shape[1] < num_prefix_tokens + 2:
            return x, sizes
        return self.merged(x, x.new_ones(x.shape[:2]) if sizes is None else sizes)

    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        tokens = torch.cat([x[:, :-2], x[:, -2:].mean(dim=1, keepdim=True)], dim=1)
        return tokens, torch.cat([sizes[:, :-2], sizes[:, -2:].sum(dim=1, keepdim=True)], dim=1)


class TokensAlone(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return super().merged(x, sizes)[0]


class Three(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return *super().merged(x, sizes), None


class WithoutSizes(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return super().merged(x, sizes)[0], None


class OldSizes(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return super().merged(x, sizes)[0], sizes


class FromTheFront(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return x[:, 1:], torch.cat([sizes[:, :1] + sizes[:, 1:2], sizes[:, 2:]], dim=1)


class Doubling(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        tokens, sizes = super().merged(x, sizes)
        return tokens, torch.cat([sizes[:, :-1], 2 * sizes[:, -1:]], dim=1)


class Shares(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        tokens, sizes = super().merged(x, sizes)
        return tokens, torch.cat([sizes[:, :-1], sizes[:, -1:] / 4], dim=1)


class AllButOne(Pairing):
    def merged(self, x: Tensor, sizes: Tensor) -> Any:
        return x[:, :1], sizes[:, :1]


class Forgetful(Pairing):
    def forward(self, x: Tensor, sizes: Tensor | None, num_prefix_tokens: int) -> tuple[Tensor, Tensor | None]:
        return super().forward(x, None, num_prefix_tokens) if sizes is None else (PreNormBlock.forward(self, x), None)


class Undeclared(PreNormBlock):
    def forward(self, x: Tensor, **options: Any) -> Any:
        return super().forward(x, **options)[:, :-1]


class UndeclaredPair(PreNormBlock):
    def forward(self, x: Tensor, **options: Any) -> Any:
        return super().forward(x, **options), None


def test_a_block_that_merges_tokens_as_the_protocol_says_passes(registry: Registry) -> None:
    assert failed(outcomes_of("block", Pairing)) == {}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (TokensAlone, "a block with merges_tokens returns (tokens, sizes); got Tensor"),
        (Three, "a block with merges_tokens returns (tokens, sizes); got 3 items"),
        (WithoutSizes, "of 27 tokens 26 come out, and yet sizes is None: every token is one"),
        (OldSizes, "sizes has shape (2, 27) for 26 tokens, expected (2, 26)"),
        (FromTheFront, "a prefix token is merged: its size is not 1"),
        (Doubling, "the sizes of 27 tokens sum up to [29.0, 29.0]"),
        (Shares, "a token stands for less than one token of the image"),
        (AllButOne, "tokens (2, 27, 32) with 3 prefix tokens come out as (2, 1, 32)"),
        (Forgetful, "given sizes, it returns None: what earlier blocks have merged is forgotten"),
        (Undeclared, "a block keeps (B, N, C), unless it declares merges_tokens = True"),
        (UndeclaredPair, "a block returns its tokens; got tuple"),
    ],
)
def test_what_is_wrong_with_sizes_is_said(registry: Registry, target: type, words: str) -> None:
    assert words in fault("block", target, "shape")


@pytest.mark.parametrize(
    ("check", "patched", "words"),
    [
        ("bias", "_split_mask", "a ViT with it takes an attn_mask of the tokens there were"),
        ("key_mask", "_split_mask", "a ViT with it takes an attn_mask of the tokens there were"),
    ],
)
def test_a_model_that_does_not_refuse_what_such_a_block_is_never_given_is_caught(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, check: str, patched: str, words: str
) -> None:
    monkeypatch.setattr(f"vitzoo.model.VisionTransformer.{patched}", lambda self, mask, tokens: (None, None))
    assert words in fault("block", Pairing, check)
