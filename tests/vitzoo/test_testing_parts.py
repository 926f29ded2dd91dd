"""The kit catches a part that is wrong in one way, and says what is wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wrong import failed, fault, outcomes_of

from vitzoo.block import BlockParts, PreNormBlock
from vitzoo.embed.patch import ConvPatchEmbed, PatchParts
from vitzoo.embed.position import LearnedPositions, SinCos2dPositions
from vitzoo.embed.rope import AxialRope
from vitzoo.errors import ConfigError
from vitzoo.mlp import GeluMlp
from vitzoo.norm import LayerNorm
from vitzoo.pool.simple import Pool, PoolParts
from vitzoo.registry import Registry


class AllTokensPool(Pool):
    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        return tokens.mean(dim=1)


class PatchesOnlyPool(Pool):
    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        return tokens[:, num_prefix_tokens:].mean(dim=1)


class ConstantPool(Pool):
    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        return torch.zeros_like(tokens[:, 0])


class KeptDimensionPool(Pool):
    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        return self.visible(tokens, num_prefix_tokens).mean(dim=1, keepdim=True)


class NoPool(nn.Module):
    def __init__(self, parts: PoolParts) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        return tokens[:, num_prefix_tokens:].mean(dim=1)


class BatchMeanPool(Pool):
    def forward(self, tokens: Tensor, num_prefix_tokens: int) -> Tensor:
        pooled = self.visible(tokens, num_prefix_tokens).mean(dim=1)
        return pooled - pooled.mean(dim=0)


class TransposedTable(LearnedPositions):
    """Resamples the table as if its rows were its columns."""

    def _resample(self, patches: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
        return super()._resample(patches, old_grid[::-1], new_grid[::-1])


class TransposedTokens(LearnedPositions):
    def forward(self, tokens: Tensor, table: Tensor | None, table_grid: Any, grid: Any) -> Any:
        prefix, patches = super().forward(tokens, table, table_grid, grid)
        assert patches is not None
        return prefix, patches.unflatten(1, grid).transpose(1, 2).flatten(1, 2)


class TransposedWaves(SinCos2dPositions):
    def forward(self, tokens: Tensor, table: Tensor | None, table_grid: Any, grid: Any) -> Any:
        return super().forward(tokens, table, table_grid[::-1], grid[::-1])


class PrefixResampled(LearnedPositions):
    def forward(self, tokens: Tensor, table: Tensor | None, table_grid: Any, grid: Any) -> Any:
        prefix, patches = super().forward(tokens, table, table_grid, grid)
        assert prefix is not None
        return prefix * (grid[0] / table_grid[0]), patches


class ResizedPrefix(LearnedPositions):
    def resize(self, table: Tensor, old_grid: Any, new_grid: Any) -> Tensor:
        return super().resize(table, old_grid, new_grid) * 2


class ShortPositions(LearnedPositions):
    def forward(self, tokens: Tensor, table: Tensor | None, table_grid: Any, grid: Any) -> Any:
        prefix, patches = super().forward(tokens, table, table_grid, grid)
        assert patches is not None
        return prefix, patches[:, :1]


class TransposedRope(AxialRope):
    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        return super().angles(grid[::-1], device=device, dtype=dtype)


class SingleRope(AxialRope):
    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        return super().angles(grid, device=device, dtype=torch.float32)


class FlatRope(AxialRope):
    def angles(self, grid: tuple[int, int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
        return super().angles(grid, device=device, dtype=dtype)[0]


class TurningPrefix(AxialRope):
    def forward(self, tokens: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Any:
        return [r._replace(sin=r.sin + 0.1) for r in super().forward(tokens, grid, num_prefix_tokens)]


class ColumnFirst(ConvPatchEmbed):
    def project(self, image: Tensor) -> Tensor:
        return self.proj(image).transpose(2, 3).flatten(2).transpose(1, 2)


class FixedGrid(ConvPatchEmbed):
    def project(self, image: Tensor) -> Tensor:
        return super().project(image)[:, :24]


class AnyChannels(ConvPatchEmbed):
    def _check(self, image: Tensor) -> None:
        pass

    def project(self, image: Tensor) -> Tensor:
        return super().project(image[:, :1].expand(-1, self.in_chans, -1, -1))


class StaleGrid(ConvPatchEmbed):
    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        self.img_size = img_size or self.img_size


class UntypedPatches(nn.Module):
    def __init__(self, parts: PatchParts) -> None:
        super().__init__()
        self.inner = ConvPatchEmbed(parts)
        self.num_patches, self.grid_size = self.inner.num_patches, self.inner.grid_size

    def forward(self, image: Tensor) -> Any:
        return self.inner(image)


class WithoutDrop(GeluMlp):
    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(dim, hidden_dim, bias=bias, norm=norm)


class AlwaysDropping(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x), self.drop, training=True)


class WithoutNorm(GeluMlp):
    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(dim, hidden_dim, bias=bias, drop=drop)


class WithoutBias(GeluMlp):
    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(dim, hidden_dim, bias=True, drop=drop, norm=norm)


class MixingMlp(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=-2, keepdim=True))


class UnusedParameter(GeluMlp):
    def __init__(self, *args: Any, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(*args, bias=bias, drop=drop, norm=norm)
        self.gate = nn.Parameter(torch.ones(1))


class DeadParameter(UnusedParameter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.gate


class HiddenState(GeluMlp):
    def __init__(self, *args: Any, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(*args, bias=bias, drop=drop, norm=norm)
        self.factor = torch.rand((), device="cpu").item()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class LateParameter(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(x.shape[-1]))
        return super().forward(x) * self.late


class SinglePrecision(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Widening(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), x], dim=-1)


class InPlace(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


class Noisy(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand((), device=x.device, dtype=x.dtype)


class DecidingByValue(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out.clamp(-9, 9) if not x.is_meta and out.abs().max() > 9 else out


class SmallImages(GeluMlp):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 27:
            raise ConfigError(f"at most 27 tokens; got {x.shape[1]}")
        return super().forward(x)


def function_norm(width: int) -> Any:
    return lambda x: x - x.mean(dim=-1, keepdim=True)


class SharedOnCopy(GeluMlp):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class JoinedNorm(nn.Module):
    """Normalises over all tokens of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=(1, 2), keepdim=True)) * self.weight if x.ndim == 3 else x * self.weight


class TokensOnly(LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, -2))


class WithoutAttend(PreNormBlock):
    def __init__(self, parts: BlockParts) -> None:
        super().__init__(parts)
        del self.attn.attend
        own = SimpleNamespace(packed=lambda qkv, **options: qkv[:, :, 0] + qkv[:, :, 2].mean(1, keepdim=True))
        self.attn.attend = own  # type: ignore[assignment]


class WithoutAttnDrop(PreNormBlock):
    def __init__(self, parts: BlockParts) -> None:
        super().__init__(parts)
        self.attn.attn_drop = 0.0


class WithoutDropPath(PreNormBlock):
    def __init__(self, parts: BlockParts) -> None:
        super().__init__(parts)
        self.drop_path1 = self.drop_path2 = nn.Identity()


def ignoring(name: str) -> type[PreNormBlock]:
    """Return a block that ignores one argument of forward."""

    class Block(PreNormBlock):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            return super().forward(x, **{**options, name: None})

    return Block


class Halving(PreNormBlock):
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        out = super().forward(x, **options)
        return out[:, : max(1, out.shape[1] // 2)]


@pytest.mark.parametrize(
    ("kind", "target", "check", "words"),
    [
        (
            "pool",
            AllTokensPool,
            "prefix",
            "the result depends on the patches and on the 3 prefix tokens (class, registers)",
        ),
        (
            "pool",
            PatchesOnlyPool,
            "include_prefix",
            "with include_prefix=True the result does not depend on the prefix",
        ),
        ("pool", ConstantPool, "prefix", "the result depends on no token"),
        ("pool", KeptDimensionPool, "shape", "pooled to (2, 1, 32), expected (B, C) = (2, 32)"),
        ("pool", NoPool, "protocol", "NoPool is no vitzoo.pool.simple.Pool"),
        ("pool", BatchMeanPool, "one_by_one", "the result for an image depends on the other images of the batch"),
        (
            "pos_embed",
            TransposedTable,
            "order",
            "rows (height) and columns (width) are mixed up; tokens lie row by row",
        ),
        ("pos_embed", TransposedTable, "resize", "resized, a change of the table's row of row 0 and column 5 of 4 x 6"),
        (
            "pos_embed",
            TransposedTokens,
            "order",
            "rows (height) and columns (width) are mixed up; tokens lie row by row",
        ),
        (
            "pos_embed",
            TransposedWaves,
            "order",
            "rows (height) and columns (width) are mixed up; tokens lie row by row",
        ),
        (
            "pos_embed",
            PrefixResampled,
            "prefix",
            "the positions of the prefix tokens (class, registers) change with the size",
        ),
        ("pos_embed", ResizedPrefix, "resize", "resizing changes the rows of the prefix tokens"),
        (
            "pos_embed",
            ShortPositions,
            "shape",
            "the positions of the patches have shape (1, 1, 32), expected (1, 24, 32)",
        ),
        ("rope", TransposedRope, "order", "rows (height) and columns (width) are mixed up; tokens lie row by row"),
        ("rope", SingleRope, "angles", "asked for torch.float64, the angles are torch.float32"),
        ("rope", FlatRope, "angles", "the angles have shape (24, 1, 8); possible for 2 blocks"),
        ("rope", TurningPrefix, "rotations", "prefix tokens (class, registers) are rotated; their angle is 0"),
        (
            "patch_embed",
            ColumnFirst,
            "order",
            "in row 0 and column 5 of 4 x 6 shows most in token 20, expected token row",
        ),
        ("patch_embed", FixedGrid, "shape", "has a grid of 8 rows and 8 columns and gives tokens (2, 24, 32)"),
        ("patch_embed", AnyChannels, "channels", "made for 4 channels, it takes an image of 3"),
        ("patch_embed", StaleGrid, "resize", "after set_input_size((64, 32)) grid_size is (4, 6)"),
        ("patch_embed", UntypedPatches, "protocol", "UntypedPatches is no vitzoo.embed.patch.PatchEmbed"),
        ("mlp", WithoutDrop, "drop", "drop=0.5 changes nothing while training: the argument is ignored"),
        ("mlp", AlwaysDropping, "drop", "drop=0.5 changes the result in eval mode"),
        ("mlp", WithoutNorm, "norm", "norm= was given, and no norm was made"),
        ("mlp", WithoutBias, "bias", "bias=True and bias=False give the same parameters: the argument is ignored"),
        ("mlp", MixingMlp, "token_by_token", "changing one token changes the results of others"),
        ("mlp", Widening, "shape", "gives (2, 27, 64); the protocol is (..., C) to (..., C)"),
        ("mlp", UnusedParameter, "gradients", "no gradient reaches the parameter gate"),
        ("mlp", DeadParameter, "gradients", "the gradient of the parameter gate is zero everywhere"),
        ("mlp", UnusedParameter, "in_a_model", "no gradient reaches blocks.0.mlp.gate, blocks.1.mlp.gate"),
        ("mlp", SinglePrecision, "dtypes", "moved to torch.float64, it returns torch.float32"),
        ("mlp", HiddenState, "state_dict", "a value that decides the result is not in it"),
        ("mlp", HiddenState, "checkpoint", "saved and loaded, a ViT with it computes something else"),
        ("mlp", LateParameter, "state_dict", "other keys after use: gone [], new ['late']"),
        ("mlp", InPlace, "repeatable", "it writes into its input"),
        ("mlp", Noisy, "repeatable", "in eval mode two calls give different results"),
        ("mlp", DecidingByValue, "compiles", "Data-dependent"),
        ("mlp", DecidingByValue, "exports", "Could not guard on data-dependent expression"),
        ("mlp", SmallImages, "in_a_model", "at most 27 tokens"),
        ("norm", function_norm, "builds", "it builds a function, not a torch.nn.Module"),
        ("mlp", SharedOnCopy, "deepcopy", "a deep copy shares tensors with the original"),
        ("norm", JoinedNorm, "token_by_token", "changing one token changes the results of others"),
        ("norm", TokensOnly, "heads", "for queries (2, 5, 2, 16) a norm of width 16 gives (2, 10, 16)"),
        ("block", WithoutAttend, "attend", "it never calls the backend that the model was created with"),
        ("block", WithoutAttnDrop, "attn_drop", "but the backend is called with dropout_p=[0.0]"),
        ("block", WithoutDropPath, "drop_path", "parts.make_drop_path() is not used"),
        ("block", ignoring("bias"), "bias", "bias= hides token 7, and yet the others change with it"),
        ("block", ignoring("key_mask"), "key_mask", "key_mask= hides token 7, and yet the others change with it"),
        ("block", ignoring("rotation"), "rotation", "rotation= changes nothing: a model's rope would have no effect"),
        ("block", Halving, "shape", "tokens (2, 27, 32) come out as (2, 13, 32); a block keeps (B, N, C)"),
    ],
    ids=lambda value: (
        value.__name__ if isinstance(value, type) else value if isinstance(value, str) and " " not in value else ""
    ),
)
def test_a_part_that_is_wrong_in_one_way_is_caught(
    registry: Registry, kind: str, target: Any, check: str, words: str
) -> None:
    assert words in fault(kind, target, check)


class OffDevice(GeluMlp):
    def __init__(self, *args: Any, bias: bool = True, drop: float = 0.0, norm: Any = None) -> None:
        super().__init__(*args, bias=bias, drop=drop, norm=norm)
        self.shift = torch.zeros(32, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


def test_a_tensor_that_does_not_move_with_its_module_is_caught_without_a_gpu(registry: Registry) -> None:
    assert "moved to meta, it mixes devices: a tensor does not move with it" in fault("mlp", OffDevice, "meta")


class Demanding(GeluMlp):
    """Needs an argument, and a norm of its hidden layer."""

    def __init__(
        self, dim: int, hidden_dim: int, *, width: int, bias: bool = True, drop: float = 0.0, norm: Any = None
    ) -> None:
        if norm is None:
            raise ConfigError("mlp='demanding' needs scale_mlp_norm=True")
        super().__init__(dim, width, bias=bias, drop=drop, norm=norm)


def test_a_registration_says_how_to_test_a_part_that_needs_arguments_or_settings(registry: Registry) -> None:
    words = fault("mlp", Demanding, "builds", name="bare")
    assert "needs the argument 'width'" in words
    words = fault("mlp", Demanding, "builds", name="half", test_args={"width": 40})
    assert "needs scale_mlp_norm=True" in words
    told = {"test_args": {"width": 40}, "test_config": {"scale_mlp_norm": True}}
    assert failed(outcomes_of("mlp", Demanding, "builds", "gradients", "checkpoint", name="told", **told)) == {}
    words = fault("mlp", Demanding, "builds", name="sized", test_config={"embed_dim": 24})
    assert words == "test_config sets embed_dim, which the checks have values of their own for"
