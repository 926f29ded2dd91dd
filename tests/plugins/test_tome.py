"""Token merging: the paper's algorithm written out, and that sizes travel from block to block."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from vitzoo_tome.merge import match

import vitzoo
import vitzoo.testing
from vitzoo.errors import ConfigError, InputError

test_tome = vitzoo.testing.suite("tome")

SMALL: dict[str, Any] = {"depth": 4, "img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 5}


def vit(block: Any = ("tome/pre_norm", {"r": 3}), **config: Any) -> Any:
    torch.manual_seed(0)
    model = vitzoo.create("vit_tiny", block=block, **{**SMALL, **config}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(batch: int = 2, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def slow_merge(x: Tensor, keys: Tensor, sizes: list[int], r: int, prefix: int) -> tuple[Tensor, list[int]]:
    """Section 3 of the paper, for one image, one token after the other: x (N, C), keys (N, D)."""
    patches = list(range(prefix, len(x)))
    a, b = patches[0::2], patches[1::2]
    edges = []
    for i in a:
        likeness = [float(torch.cosine_similarity(keys[i], keys[j], dim=0)) for j in b]
        if likeness:
            edges.append((max(likeness), i, b[likeness.index(max(likeness))]))
    edges = sorted(edges, key=lambda edge: -edge[0])[: min(r, len(patches) // 2)]
    groups = {j: [j] for j in b}
    for _, i, j in edges:
        groups[j].append(i)
    gone = {i for _, i, _ in edges}
    members = [[i] for i in range(prefix)] + [[i] for i in a if i not in gone] + [groups[j] for j in b]
    means = [sum(sizes[i] * x[i] for i in group) / sum(sizes[i] for i in group) for group in members]
    return torch.stack(means), [sum(sizes[i] for i in group) for group in members]


def slow_block(block: Any, x: Tensor, sizes: list[int], r: int, prefix: int) -> tuple[Tensor, list[int]]:
    """One block for one image (N, C), its attention written out."""
    heads, dim = block.attn.num_heads, block.attn.head_dim
    q, k, v = block.attn.qkv(block.norm1(x)).reshape(len(x), 3, heads, dim).unbind(1)
    out = torch.zeros_like(q)
    for h in range(heads):
        # A token of size s is s equal keys.
        weights = torch.exp(q[:, h] @ k[:, h].T / math.sqrt(dim)) * torch.tensor(sizes, dtype=x.dtype)
        out[:, h] = (weights / weights.sum(dim=1, keepdim=True)) @ v[:, h]
    x = x + block.attn.proj(out.reshape(len(x), -1))
    x, sizes = slow_merge(x, k.mean(dim=1), sizes, r, prefix)
    return x + block.mlp(block.norm2(x)), sizes


@pytest.mark.parametrize(("r", "reg_tokens"), [(3, 0), (1, 2), (99, 1)])
def test_a_model_computes_what_the_paper_says(r: int, reg_tokens: int) -> None:
    model, x = vit(("tome/pre_norm", {"r": r}), reg_tokens=reg_tokens), images()
    prefix = 1 + reg_tokens
    with torch.no_grad():
        tokens, _, _ = model._embed(x, None)
        expected = []
        for image in tokens:
            sizes = [1] * len(image)
            for block in model.blocks:
                image, sizes = slow_block(block, image, sizes, r, prefix)
            assert sum(sizes) == prefix + 16
            expected.append(model.norm(image))
        torch.testing.assert_close(model.forward_features(x), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_without_merging_it_is_the_pre_norm_block_bit_for_bit() -> None:
    merging, plain = vit(("tome/pre_norm", {"r": 0}), qk_norm=True), vit("pre_norm", qk_norm=True)
    assert list(merging.state_dict()) == list(plain.state_dict())
    assert torch.equal(merging(images()), plain(images()))


def test_each_block_drops_r_tokens_until_half_of_the_patches_are_fewer() -> None:
    model = vit(("tome/pre_norm", {"r": 5}))
    levels = model.forward_intermediates(images(), output_fmt="NLC", intermediates_only=True)
    assert [level.shape[1] for level in levels] == [11, 6, 3, 2]
    counted = vitzoo.attention_maps(model, images())
    assert [rows.shape[-1] for rows in counted.values()] == [17, 12, 7, 4]


def test_equal_tokens_are_merged_into_themselves_and_count_as_often() -> None:
    """Every patch twice and every pair merged: all blocks see what they would have seen."""
    block = vit(("tome/pre_norm", {"r": 8}), depth=1).blocks[0]
    again = copy.deepcopy(block)
    again.r = 0
    patches = torch.randn(2, 8, 32).double()
    doubled = torch.cat([torch.randn(2, 1, 32).double(), patches.repeat_interleave(2, dim=1)], dim=1)
    merged, sizes = block(doubled, None, 1)
    assert sizes.tolist() == [[1] + [2] * 8] * 2
    every, _ = again(doubled, None, 1)
    torch.testing.assert_close(merged[:, 1:], every[:, 1::2])
    torch.testing.assert_close(merged[:, :1], every[:, :1])
    after, sizes = again(merged, sizes, 1)
    torch.testing.assert_close(after[:, 1:], again(every, None, 1)[0][:, 1::2])
    torch.testing.assert_close(after[:, :1], again(every, None, 1)[0][:, :1])


def test_equal_keys_are_taken_in_their_order() -> None:
    matching = match(torch.ones(1, 9, 4), 2, 1)
    assert matching is not None
    assert (matching.merged.tolist(), matching.into.tolist(), matching.kept.tolist()) == ([[0, 1]], [[0, 0]], [[2, 3]])


@pytest.mark.parametrize(
    ("attn", "dtype"),
    [
        ("reference", torch.float64),
        ("reference", torch.float32),
        pytest.param("triton", torch.float32, marks=pytest.mark.interpreter),
    ],
)
def test_the_bias_is_one_row_and_every_backend_that_takes_one_agrees(attn: str, dtype: torch.dtype) -> None:
    seen: list[Tensor | None] = []
    model, x = vit().to(dtype), images().to(dtype)
    for block in model.blocks:
        mix = block.attn.mix
        block.attn.mix = lambda *qkv, bias, mix=mix: (seen.append(bias), mix(*qkv, bias=bias))[1]
    expected = model(x)
    assert [None if bias is None else tuple(bias.shape) for bias in seen] == [
        None,
        *((2, 1, 1, n) for n in (14, 11, 8)),
    ]
    vitzoo.set_attention(model, attn)
    torch.testing.assert_close(model(x), expected)


def test_recomputing_blocks_changes_no_gradient_and_forwards_may_be_interleaved() -> None:
    model, x, other = vit().train(), images(), images(3, 48)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    model.set_grad_checkpointing()
    first, _, second = model(x), model(other), copy.deepcopy(model)(x)
    assert torch.equal(first, second)
    found = torch.autograd.grad(first.square().sum(), list(model.parameters()))
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)


def test_the_gradient_is_that_of_the_means() -> None:
    block = vit(depth=1).blocks[0]
    x = torch.randn(1, 7, 32).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block(x, torch.full((1, 7), 2.0).double(), 1)[0], x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_low_precision_and_under_autocast_sizes_stay_whole(dtype: torch.dtype) -> None:
    block = vit(depth=1).to(dtype).blocks[0]
    x, sizes = torch.randn(2, 9, 32).to(dtype), torch.full((2, 9), 333.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        out, sizes = block(x, sizes, 1)
    assert out.dtype == dtype
    assert sizes.sum(dim=1).tolist() == [9 * 333] * 2
    assert not (sizes % 333).any()
    assert block(x, None, 1)[1].dtype == torch.float32


def test_autocast_does_not_round_the_means() -> None:
    x = torch.randn(2, 9, 32)
    matching = match(x, 3, 1)
    assert matching is not None
    expected, _ = matching.merge(x, None)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = matching.merge(x, None)
    assert torch.equal(found, expected)


def test_the_whole_model_compiles_without_a_break_and_learns() -> None:
    model = vit()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(images()).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    expected = torch.autograd.grad(model(images()).square().sum(), list(model.parameters()))
    for one, two in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, two)
    torch._dynamo.reset()


@pytest.mark.parametrize("pool", ["token", "avg", "map", "max"])
def test_pools_read_the_tokens_that_are_left(pool: str) -> None:
    assert vit(pool=pool)(images()).shape == (2, 5)


def test_what_cannot_work_is_refused() -> None:
    model = vit()
    cases = [
        (ConfigError, "rope='axial', possible: rope='none'", lambda: vit(rope="axial", pos_embed="none")),
        (InputError, "possible: no attn_mask, or a block", lambda: model(images(), attn_mask=torch.ones(17, 17) > 0)),
        (InputError, r"output_fmt='NCHW' \(possible: 'NLC'", lambda: model.forward_intermediates(images())),
        (InputError, "features_only=True gives features on", lambda: vit(features_only=True)),
        (ConfigError, r"needs the argument 'r': block=\('tome/pre_norm', {'r': ...}\)", lambda: vit("tome/pre_norm")),
        (ConfigError, "r=-1 tokens cannot be merged", lambda: vit(("tome/pre_norm", {"r": -1}))),
        (ConfigError, "r=1.5 tokens cannot be merged", lambda: vit(("tome/pre_norm", {"r": 1.5}))),
    ]
    for error, words, call in cases:
        with pytest.raises(error, match=words):
            call()
