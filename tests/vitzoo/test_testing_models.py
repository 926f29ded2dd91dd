"""The kit catches a model that is wrong in one way, and says what is wrong; a hierarchical one can pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from wrong import failed, fault, outcomes_of

import vitzoo
from vitzoo.attention.module import Attention
from vitzoo.attention.select import Attend
from vitzoo.errors import InputError
from vitzoo.registry import Registry

SMALL: dict[str, Any] = {"img_size": 32}
WIDTHS = (16, 32)


class Level(nn.Module):
    """One attention layer over the whole grid."""

    def __init__(self, dim: int, attend: Attend) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(dim), Attention(dim, 2, attend=attend)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm(tokens))
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class Pyramid(nn.Module):
    """Two levels, 4 and 8 pixels a step: the smallest model that has the whole protocol."""

    def __init__(self, *, num_classes: int = 1000, img_size: int | tuple[int, int] = 224, in_chans: int = 3) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.num_classes, self.num_features = num_classes, WIDTHS[-1]
        self.feature_info = [
            {"module": f"levels.{i}", "num_chs": width, "reduction": 4 * 2**i} for i, width in enumerate(WIDTHS)
        ]
        attend = Attend("auto")
        self.stem = nn.Conv2d(in_chans, WIDTHS[0], 4, 4)
        self.levels = nn.ModuleList([Level(width, attend) for width in WIDTHS])
        self.merge = nn.Conv2d(*WIDTHS, 2, 2)
        self.norm = nn.LayerNorm(WIDTHS[-1])
        self.head: nn.Module = nn.Linear(WIDTHS[-1], num_classes) if num_classes else nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.norm(x.mean(dim=(2, 3)))
        return pooled if pre_logits else self.head(pooled)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Any = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r} is unknown (possible: 'NCHW')")
        if x.shape[-2] % 8 or x.shape[-1] % 8:
            raise InputError(f"an image of {x.shape[-2]}x{x.shape[-1]} does not divide into steps of 8")
        taken, found = self._taken(indices), {}
        x = self.stem(x)
        for i, level in enumerate(self.levels):
            if stop_early and i > max(taken):
                break
            x = self.merge(x) if i else x
            checkpointed = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(level, x, use_reentrant=False) if checkpointed else level(x)
            found[i] = x
        listed = [found[i] for i in taken]
        return listed if intermediates_only else (x, listed)

    def prune_intermediate_layers(
        self, indices: Any = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        taken = self._taken(indices)
        self.levels = self.levels[: max(taken) + 1]
        return taken

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(WIDTHS[-1], num_classes) if num_classes else nn.Identity()

    def set_input_size(self, img_size: Any = None) -> None:
        self.img_size = img_size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": [(r"^levels\.(\d+)", None), (r"^merge", (1,)), (r"^norm", (9,))]}

    def _taken(self, indices: Any) -> list[int]:
        depth = len(self.levels)
        chosen = range(depth)[-indices:] if isinstance(indices, int) else range(depth) if indices is None else indices
        if any(not -depth <= index < depth for index in chosen):
            raise InputError(f"level {chosen} was asked for (possible: {-depth} to {depth - 1})")
        return [index % depth for index in chosen]


def test_a_hierarchical_model_passes_all_checks(registry: Registry) -> None:
    outcomes = outcomes_of("model", Pyramid, test_config=SMALL)
    assert failed(outcomes) == {}
    assert {name for name, outcome in outcomes.items() if outcome.state == "skipped"} <= {"cuda"}


class WithoutReset(Pyramid):
    reset_classifier = None  # type: ignore[assignment]


class FixedClasses(Pyramid):
    def __init__(self, *, num_classes: int = 1000, img_size: Any = 224) -> None:
        super().__init__(num_classes=10, img_size=img_size)


class OtherForward(Pyramid):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class LogitsOfFeatures(Pyramid):
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(self.norm(x.mean(dim=(2, 3))))


class StaleCount(Pyramid):
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.head = nn.Linear(WIDTHS[-1], num_classes) if num_classes else nn.Identity()


class ResetsAll(Pyramid):
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes)
        nn.init.normal_(self.stem.weight)


class WrongReduction(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.feature_info[1]["reduction"] = 4


class WrongModule(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.feature_info[0]["module"] = "blocks.0"


class AllLevels(Pyramid):
    def forward_intermediates(self, x: Tensor, indices: Any = None, **options: Any) -> Any:
        return super().forward_intermediates(x, None, **options)


class AnyFormat(Pyramid):
    def forward_intermediates(self, x: Tensor, indices: Any = None, output_fmt: str = "NCHW", **options: Any) -> Any:
        return super().forward_intermediates(x, indices, **options)


class PrunesTooMuch(Pyramid):
    def prune_intermediate_layers(self, indices: Any = 1, **options: Any) -> list[int]:
        self.merge = nn.Conv2d(*WIDTHS, 2, 2)
        return super().prune_intermediate_layers(indices)


class FixedSize(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.table = nn.Parameter(torch.zeros(WIDTHS[0], self.img_size[0] // 4, self.img_size[1] // 4))

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        handle = self.stem.register_forward_hook(lambda _, __, out: out + self.table)
        try:
            return super().forward_intermediates(x, *args, **options)
        finally:
            handle.remove()


class Cropping(Pyramid):
    """Takes any size, and looks at a square of it."""

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        side = min(x.shape[-2:])
        return super().forward_intermediates(x[..., :side, :side], *args, **options)


class OwnAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.head_dim = nn.Linear(dim, 3 * dim), dim

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1))


class SecondLayerAlone(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.levels[1].attn = OwnAttention(WIDTHS[1])  # type: ignore[union-attr]


class NoAttend(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for level, width in zip(self.levels, WIDTHS, strict=True):
            level.attn = OwnAttention(width)  # type: ignore[union-attr]


class IdleLayer(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.spare = Attention(16, 2, attend=self.levels[0].attn.attend)  # type: ignore[union-attr, arg-type]


class NoCheckpointing(Pyramid):
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        pass


class NoisyCheckpointing(Pyramid):
    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x) * (1 + self.grad_checkpointing)


class UngroupedMerge(Pyramid):
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": [(r"^levels\.(\d+)", None)]}


class ListedDecay(Pyramid):
    def no_weight_decay(self) -> Any:
        return ["norm.weight"]


class Unused(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.token = nn.Parameter(torch.ones(1))


class UnsavedFactor(Pyramid):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor = torch.rand((), device="cpu").item()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return super().forward_head(x * self.factor, pre_logits)


class OwnConfig(Pyramid):
    """Keeps settings that do not build it again."""

    def __init__(self, *, num_classes: int = 1000, img_size: Any = 224) -> None:
        super().__init__(num_classes=num_classes, img_size=img_size)
        self.config = {"num_classes": num_classes, "size": img_size}


@pytest.mark.parametrize(
    ("target", "check", "words"),
    [
        (WithoutReset, "protocol", "WithoutReset lacks reset_classifier()"),
        (FixedClasses, "protocol", "created with num_classes=5, it has num_classes=10"),
        (OtherForward, "forward", "forward(x) is not forward_head(forward_features(x))"),
        (LogitsOfFeatures, "head", "forward_head(x, pre_logits=True) has shape (2, 5), expected (2, 32)"),
        (StaleCount, "head", "after reset_classifier(7) num_classes=5"),
        (ResetsAll, "head", "reset_classifier changes the features"),
        (
            WrongReduction,
            "levels",
            "level 1 of an image of 32x32 has shape (2, 32, 4, 4); feature_info says num_chs=32",
        ),
        (WrongModule, "levels", "feature_info[0] names the module 'blocks.0', which is not in the model"),
        (AllLevels, "intermediates", "1 levels were asked for (feature_info has 2), 2 came"),
        (AnyFormat, "intermediates", "forward_intermediates takes output_fmt='NCWH', which does not exist"),
        (PrunesTooMuch, "features_only", "computes something else than the whole model's levels"),
        (FixedSize, "input_size", "must match the size of tensor b"),
        (FixedSize, "dynamic_size", "an image of 64x32 is neither classified nor refused with an error of vitzoo's"),
        (Cropping, "dynamic_size", "without set_input_size: level 0 of an image of 64x32 has shape (2, 16, 8, 8)"),
        (Cropping, "input_size", "after set_input_size((64, 32)): level 0 of an image of 64x32"),
        (SecondLayerAlone, "attention", "the model called scaled_dot_product_attention itself 1 times"),
        (
            NoAttend,
            "attention",
            "has no attention layer that vitzoo can look into or switch: a layer keeps its `attend`",
        ),
        (IdleLayer, "attention", "the attention layers spare never ran"),
        (NoCheckpointing, "grad_checkpointing", "the backward runs no attention again: the switch does nothing"),
        (NoisyCheckpointing, "grad_checkpointing", "gradient checkpointing changes the logits"),
        (UngroupedMerge, "groups", "group_matcher() sorts merge.weight, merge.bias into no layer"),
        (ListedDecay, "groups", "no_weight_decay() gives a list, not a set of names"),
        (Unused, "gradients", "no gradient reaches the parameter token"),
        (UnsavedFactor, "state_dict", "a value that decides the result is not in it"),
        (UnsavedFactor, "checkpoint", "saved and loaded, it computes something else"),
        (OwnConfig, "checkpoint", "unexpected keyword argument 'size'"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if " " not in value else "",
)
def test_a_model_that_is_wrong_in_one_way_is_caught(registry: Registry, target: Any, check: str, words: str) -> None:
    assert words in fault("model", target, check, test_config=SMALL)


def test_a_model_without_test_config_is_checked_on_the_meta_device_and_says_so(registry: Registry) -> None:
    outcomes = outcomes_of("model", Pyramid)
    states = {name: outcome.state for name, outcome in outcomes.items()}
    assert states == {"protocol": "passed", "on_meta": "passed", "test_config": "skipped"}
    assert "its numbers, gradients and checkpoints were not checked" in outcomes["test_config"].detail
    words = fault("model", WrongReduction, "on_meta", name="odd")
    assert "level 1 of an image of 224x224 has shape (2, 32, 28, 28)" in words


def test_a_variant_is_checked_small_without_being_told(registry: Registry) -> None:
    from vitzoo.variants.table import Variant

    config = vitzoo.ViTConfig(embed_dim=1024, depth=24, num_heads=4, pool="avg", class_token=False)
    variant = Variant(name="large", config=config, params=1, paper="None", arxiv="2010.11929")
    outcomes = outcomes_of("model", variant, "protocol", "levels", "checkpoint", "groups")
    assert {outcome.state for outcome in outcomes.values()} == {"passed"}
