"""What a Swin Transformer is made of, as data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vitzoo.errors import ConfigError, suggestion

POOLS = ("avg", "max", "avgmax", "none")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu")
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """The settings of one model; names and meanings are timm's wherever timm has the thing.

    Args:
        version: 1 or 2 (arXiv 2103.14030, 2111.09883).
        img_size: (height, width) in pixels that the model is made for; an int is a square. Windows that are larger
            than a stage's grid at this size are cut to it.
        patch_size: (height, width) in pixels of one patch; an int is a square.
        in_chans: image channels.
        num_classes: outputs of the head; 0 for features.
        pool: avg, max, avgmax or none.
        embed_dim: width of the first stage; each later stage is twice as wide.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of the windows in tokens, or (height, width), or one of these a stage.
        pretrained_window_sizes: version 2: the windows, one a stage, by which offsets are measured; 0: the model's own.
        always_partition: do not cut windows to the grid; a grid that is smaller is padded.
        pad_first: pad the grid to whole windows before it is shifted, and do not shift along a side that one window
            covers, as torchvision and transformers do; False: shift first, as timm does. They differ only where the
            windows do not divide the grid.
        dynamic_img_size: accept any size that the patches divide; False: `img_size` alone.
        mlp_ratio: hidden width of an MLP over the width of its stage.
        qkv_bias: whether q, k and v have a bias; in version 2 that of k is always 0.
        act_layer: activation of the MLPs: gelu, gelu_tanh, quick_gelu, relu.
        final_norm: whether there is a norm after the last stage.
        drop_rate: dropout before the head.
        proj_drop_rate: dropout after projections.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; the others' grows linearly to it.

    Raises:
        ConfigError: a value that no model can have.
    """

    version: int
    img_size: Pair = (224, 224)
    patch_size: Pair = (4, 4)
    in_chans: int = 3
    num_classes: int = 1000
    pool: str = "avg"
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: tuple[Pair, ...] = ((7, 7), (7, 7), (7, 7), (7, 7))
    pretrained_window_sizes: tuple[Pair, ...] = ()
    always_partition: bool = False
    pad_first: bool = False
    dynamic_img_size: bool = True
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    act_layer: str = "gelu"
    final_norm: bool = True
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("pool", self.pool or "none")
        put("depths", _numbers("depths", self.depths))
        put("num_heads", _numbers("num_heads", self.num_heads))
        put("img_size", _pair("img_size", self.img_size))
        put("patch_size", _pair("patch_size", self.patch_size))
        stages = len(self.depths)
        put("window_size", per_stage("window_size", self.window_size, stages))
        pretrained = self.pretrained_window_sizes or 0
        put("pretrained_window_sizes", per_stage("pretrained_window_sizes", pretrained, stages, least=0))
        self._check()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def grids(self) -> tuple[Pair, ...]:
        """(rows, columns) of the tokens of each stage at `img_size`."""
        rows, columns = (side // patch for side, patch in zip(self.img_size, self.patch_size, strict=True))
        grids = [(rows, columns)]
        for _ in self.depths[1:]:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            grids.append((rows, columns))
        return tuple(grids)

    def window_of(self, stage: int) -> Pair:
        """Return the window (height, width) that the blocks of a stage have: cut to the grid, unless told not to."""
        if self.always_partition:
            return self.window_size[stage]
        height, width = (min(pair) for pair in zip(self.grids[stage], self.window_size[stage], strict=True))
        return height, width

    def shift_of(self, stage: int) -> Pair:
        """Return how far every second block of a stage shifts its windows, (down, right)."""
        down, right = (side // 2 for side in self.window_size[stage])
        if self.always_partition:
            return down, right
        grid, window = self.grids[stage], self.window_of(stage)
        return (0 if grid[0] <= window[0] else down), (0 if grid[1] <= window[1] else right)

    def drop_path_rates(self, stage: int) -> tuple[float, ...]:
        """Return the stochastic depth of each block of a stage."""
        last = max(1, sum(self.depths) - 1)
        first = sum(self.depths[:stage])
        return tuple(self.drop_path_rate * (first + index) / last for index in range(self.depths[stage]))

    def with_changes(self, **changes: Any) -> SwinConfig:
        """Return a config with other values; `global_pool` is timm's spelling of `pool`.

        Raises:
            ConfigError: a name that no setting has, or a value that no model can have.
        """
        if "global_pool" in changes:
            if "pool" in changes:
                raise ConfigError("pool and global_pool are one setting, and both were given")
            changes["pool"] = changes.pop("global_pool")
        known = [field.name for field in fields(self) if field.name != "version"]
        for name in changes:
            if name not in known:
                raise ConfigError(f"a Swin Transformer has no setting {name!r}.{suggestion(name, known)}")
        if "depths" in changes and "window_size" not in changes and len(set(self.window_size)) == 1:
            changes["window_size"] = self.window_size[0]
        if "depths" in changes and "pretrained_window_sizes" not in changes and not self.is_pretrained_elsewhere:
            changes["pretrained_window_sizes"] = 0
        return replace(self, **changes)

    @property
    def is_pretrained_elsewhere(self) -> bool:
        """Whether offsets are measured by other windows than the model's own."""
        return any(any(pair) for pair in self.pretrained_window_sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings but the version, which belongs to the model's name."""
        return {name: value for name, value in asdict(self).items() if name != "version"}

    def _check(self) -> None:
        stages = len(self.depths)
        wrong = []
        if self.version not in (1, 2):
            wrong.append(f"version={self.version} (possible: 1, 2)")
        if not stages or len(self.num_heads) != stages:
            wrong.append(f"num_heads={self.num_heads} and depths={self.depths} are not one number a stage each")
        wrong += [
            f"num_heads={heads} does not divide the {width} channels of stage {stage}"
            for stage, (heads, width) in enumerate(zip(self.num_heads, self.widths, strict=False))
            if width % heads
        ]
        if any(side % patch for side, patch in zip(self.img_size, self.patch_size, strict=True)):
            wrong.append(f"img_size={self.img_size}, which does not divide into patches of {self.patch_size}")
        if self.pool not in POOLS:
            wrong.append(f"pool={self.pool!r} (possible: {', '.join(POOLS)})")
        if self.act_layer not in ACTIVATIONS:
            wrong.append(f"act_layer={self.act_layer!r} (possible: {', '.join(ACTIVATIONS)})")
        if self.version == 1 and self.is_pretrained_elsewhere:
            wrong.append("pretrained_window_sizes are for version 2: version 1 has tables, which are resized")
        least: Mapping[str, int] = {"in_chans": 1, "embed_dim": 1, "num_classes": 0}
        wrong += [
            f"{name}={getattr(self, name)!r} (possible: {low} and more)"
            for name, low in least.items()
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low
        ]
        wrong += [
            f"{name}={getattr(self, name)!r} (possible: 0 <= {name} < 1)"
            for name in ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
            if not 0 <= getattr(self, name) < 1
        ]
        if wrong:
            raise ConfigError(f"no Swin Transformer has {'; '.join(wrong)}")


def per_stage(name: str, value: Any, stages: int, *, least: int = 1) -> tuple[Pair, ...]:
    """Return (height, width) for each stage from a side, a pair for all stages, or one of these a stage.

    Raises:
        ConfigError: it is none of these; with two stages, two numbers are a pair.
    """
    if isinstance(value, list | tuple) and not (len(value) == 2 and all(isinstance(side, int) for side in value)):
        if len(value) != stages:
            raise ConfigError(f"{name}={value!r} has {len(value)} entries, and there are {stages} stages")
        return tuple(_pair(name, side, least=least) for side in value)
    return (_pair(name, value, least=least),) * stages


def _pair(name: str, value: Any, *, least: int = 1) -> Pair:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= least for side in pair):
        raise ConfigError(f"{name}={value!r} is neither a whole number from {least} on nor a pair of them")
    return pair


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, int) and one >= 1 for one in value):
        raise ConfigError(f"{name}={value!r} is not one whole number from 1 on for each stage")
    return tuple(value)
