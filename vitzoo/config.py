"""What a Vision Transformer is made of, as data: `Component` and `ViTConfig`, frozen, to and from plain dicts.

A config carries every switch that changes a model's numbers, also those that change no shape: a norm's eps, the
interpolation of positions, where the final norm stands. It holds names, never module paths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import Any, NoReturn, TypeAlias

from vitzoo.errors import ConfigError, suggestion

SLOTS = ("patch_embed", "pos_embed", "rope", "block", "norm", "mlp", "pool")

# Spellings that timm's users know, accepted wherever a config is written by hand.
FIELD_ALIASES = {"global_pool": "pool"}
VALUE_ALIASES = {"pool": {"": "none"}, "pos_embed": {"": "none", "learn": "learned"}}


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed, so that it can be hashed and shared."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("the arguments of a Component cannot be changed; make a new Component")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


@dataclass(frozen=True)
class Component:
    """A swappable part by name, with the arguments it is to be built with.

    Args:
        name: a registered name: 'layernorm', 'acme/rms_fast'.
        args: JSON values; lists become tuples, so that a config read back from JSON is equal.

    Raises:
        ConfigError: an argument is not a JSON value, or is a float that is not finite.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"a component's name is a string such as 'layernorm'; got {self.name!r}")
        if not isinstance(self.args, Mapping):
            raise ConfigError(f"the arguments of {self.name!r} are {{'arg': 1}} by name; got {self.args!r}")
        frozen = FrozenDict({key: _frozen(f"{self.name}.{key}", value) for key, value in dict(self.args).items()})
        object.__setattr__(self, "args", frozen)

    @classmethod
    def of(cls, value: ComponentLike) -> Component:
        """Return `value` as a Component: 'name', ('name', {...}), {'name': ..., 'args': {...}} or a Component.

        Raises:
            ConfigError: it is none of these.
        """
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and set(value) <= {"name", "args"} and "name" in value:
            return cls(value["name"], value.get("args", {}))
        if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], Mapping):
            return cls(value[0], value[1])
        raise ConfigError(f"a component is 'name', ('name', {{'arg': 1}}) or Component(name, args); got {value!r}")

    def to_dict(self) -> str | dict[str, Any]:
        """Return the name alone when there are no arguments, else {'name': ..., 'args': {...}}."""
        return {"name": self.name, "args": _plain(self.args)} if self.args else self.name

    def __str__(self) -> str:
        if not self.args:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.args.items())})"


ComponentLike: TypeAlias = "str | tuple[str, Mapping[str, Any]] | Mapping[str, Any] | Component"


def component_in(slot: str, value: ComponentLike) -> Component:
    """Return what a value names in a slot, in timm's spelling too; raises as `Component.of`."""
    return Component.of(VALUE_ALIASES.get(slot, {}).get(value, value) if isinstance(value, str) else value)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A plain Vision Transformer. Names and meanings are timm's wherever timm has the thing.

    Args:
        img_size: (height, width) in pixels of the images the model is made for; an int is a square.
        patch_size: (height, width) in pixels of one patch; an int is a square.
        in_chans: image channels, 1 to 32.
        num_classes: outputs of the head; 0 for features.
        embed_dim: width C of a token.
        depth: number of blocks.
        num_heads: attention heads H of a block; H divides C.
        mlp_ratio: hidden width of an MLP over `embed_dim`, the same for gated MLPs.
        patch_embed: slot; conv, linear, conv_stem.
        pos_embed: slot; learned, sincos2d, none. Added to the tokens.
        rope: slot; none, axial, dinov3, mixed. Acts inside attention, on patch tokens alone.
        block: slot; pre_norm, post_norm, res_post_norm, parallel.
        norm: slot; layernorm, rmsnorm.
        mlp: slot; gelu, gelu_tanh, quick_gelu, relu, swiglu, swiglu_packed.
        pool: slot; token, avg, avgmax, max, map, distilled, gem, none.
        class_token: prepend a learned class token.
        dist_token: prepend a learned distillation token after the class token (DeiT).
        reg_tokens: number of register tokens after them.
        mask_token: hold a learned token that stands in for masked patches.
        no_embed_class: positions are for patches only, not for the prefix tokens.
        pre_norm: normalise the tokens before the first block, and give the patch embedding no bias (CLIP).
        final_norm: normalise after the last block or after pooling.
        fc_norm: that norm stands after pooling; None: it does for avg, avgmax and max.
        pool_include_prefix: pool over the prefix tokens too.
        qkv_bias: True: q, k and v have a bias; False: none has; 'qv': q and v have one each (BEiT, EVA, DINOv3).
        qkv_fused: one projection to q, k and v; False: three.
        qk_norm: normalise queries and keys, head by head.
        proj_bias: biases in the attention's output projection and in the MLP.
        scale_attn_norm: normalise the attention's output before its projection (sub-LN).
        scale_mlp_norm: normalise the MLP's hidden layer (sub-LN).
        init_values: first value of LayerScale; None for no LayerScale.
        drop_rate: dropout before the head.
        pos_drop_rate: dropout after the positions.
        patch_drop_rate: share of patches dropped while training.
        proj_drop_rate: dropout after projections, in attention and MLP.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        dynamic_img_size: accept any size that the patches divide; False: `img_size` alone.
        dynamic_img_pad: pad images on the right and below to whole patches.

    Raises:
        ConfigError: a value that no model can have; the message names the field, the value and what is possible.
    """

    img_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0

    patch_embed: Component = Component("conv")
    pos_embed: Component = Component("learned")
    rope: Component = Component("none")
    block: Component = Component("pre_norm")
    norm: Component = Component("layernorm")
    mlp: Component = Component("gelu")
    pool: Component = Component("token")

    class_token: bool = True
    dist_token: bool = False
    reg_tokens: int = 0
    mask_token: bool = False
    no_embed_class: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    pool_include_prefix: bool = False

    qkv_bias: bool | str = True
    qkv_fused: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    scale_attn_norm: bool = False
    scale_mlp_norm: bool = False
    init_values: float | None = None

    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    dynamic_img_size: bool = True
    dynamic_img_pad: bool = False

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        for name in SLOTS:
            object.__setattr__(self, name, component_in(name, getattr(self, name)))
        self._check_types()
        self._check_values()

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class, distillation, registers."""
        return int(self.class_token) + int(self.dist_token) + self.reg_tokens

    @property
    def head_dim(self) -> int:
        """Width D of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_hidden_dim(self) -> int:
        """Width of an MLP's hidden layer."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def uses_fc_norm(self) -> bool:
        """Whether the final norm stands after pooling."""
        return self.final_norm and (
            self.pool.name in ("avg", "avgmax", "max") if self.fc_norm is None else self.fc_norm
        )

    def components(self) -> Iterator[Component]:
        """Yield the component of every slot."""
        return (getattr(self, slot) for slot in SLOTS)

    def with_changes(self, **changes: Any) -> ViTConfig:
        """Return a copy with some fields changed; timm's spellings are accepted.

        Raises:
            ConfigError: no such field (with the near names), or a value that no model can have.
        """
        canonical: dict[str, Any] = {}
        known = [item.name for item in fields(self)]
        for name, value in changes.items():
            target = FIELD_ALIASES.get(name, name)
            if target not in known:
                hint = suggestion(name, known) or f" Possible: {', '.join(known)}."
                raise ConfigError(f"a ViT has no setting {name!r}.{hint}")
            if target in canonical:
                both = " and ".join(repr(alias) for alias, field in FIELD_ALIASES.items() if field == target)
                raise ConfigError(f"{both} and {target!r} are one setting, and both were given")
            canonical[target] = value
        return replace(self, **canonical)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        return {
            item.name: value.to_dict() if isinstance(value := getattr(self, item.name), Component) else _plain(value)
            for item in fields(self)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ViTConfig:
        """Return the config that `to_dict` wrote; fields it does not name have their defaults.

        Raises:
            ConfigError: an unknown field or an impossible value.
        """
        return cls().with_changes(**data)

    def _check_types(self) -> None:
        for name in ("in_chans", "num_classes", "embed_dim", "depth", "num_heads", "reg_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ConfigError(f"{name}={value!r} is not an integer")
            # NumPy's integers have no place in JSON.
            object.__setattr__(self, name, int(value))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "bool" and not isinstance(value, bool):
                raise ConfigError(f"{item.name}={value!r} is neither True nor False")
            if item.type == "bool | None" and value is not None and not isinstance(value, bool):
                raise ConfigError(f"{item.name}={value!r} is neither True, False nor None")
            if item.type in ("float", "float | None") and value is not None:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ConfigError(f"{item.name}={value!r} is not a finite number")
                object.__setattr__(self, item.name, float(value))

    def _check_values(self) -> None:
        for name, low, high in (
            ("in_chans", 1, 32),
            ("num_classes", 0, None),
            ("embed_dim", 1, None),
            ("depth", 1, None),
            ("num_heads", 1, None),
            ("reg_tokens", 0, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                allowed = f"at least {low}" if high is None else f"{low} to {high}"
                raise ConfigError(f"{name}={value} is out of range (possible: {allowed})")
        if self.embed_dim % self.num_heads:
            divisors = [heads for heads in range(1, min(self.embed_dim, 64) + 1) if self.embed_dim % heads == 0]
            near = sorted(sorted(divisors, key=lambda heads: abs(heads - self.num_heads))[:4])
            raise ConfigError(
                f"num_heads={self.num_heads} does not divide embed_dim={self.embed_dim}; "
                f"possible near it: num_heads in {near}"
            )
        if self.mlp_hidden_dim < 1:
            raise ConfigError(f"mlp_ratio={self.mlp_ratio} leaves the MLP no hidden unit at embed_dim={self.embed_dim}")
        for name in (
            "drop_rate",
            "pos_drop_rate",
            "patch_drop_rate",
            "proj_drop_rate",
            "attn_drop_rate",
            "drop_path_rate",
        ):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name}={getattr(self, name)} is out of range (possible: 0 <= {name} < 1)")
        if not isinstance(self.qkv_bias, bool) and self.qkv_bias != "qv":
            raise ConfigError(f"qkv_bias={self.qkv_bias!r} is unknown (possible: True, False, 'qv')")
        if self.dist_token and not self.class_token:
            raise ConfigError(
                "dist_token=True needs class_token=True: the distillation token stands after the class token"
            )
        if self.pool.name == "token" and not self.class_token:
            raise ConfigError("pool='token' needs class_token=True; without a class token use pool='avg' or 'map'")
        if self.pool.name == "distilled" and not self.dist_token:
            raise ConfigError("pool='distilled' reads the class and the distillation token: set dist_token=True")


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, Integral) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in pair):
        raise ConfigError(f"{name}={value!r} is neither a positive integer nor a (height, width) of two")
    return int(pair[0]), int(pair[1])


def _frozen(where: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}={value!r} is not a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(_frozen(where, item) for item in value)
    if isinstance(value, Mapping):
        return FrozenDict({str(key): _frozen(f"{where}.{key}", item) for key, item in value.items()})
    raise ConfigError(f"{where}={value!r} is a {type(value).__name__}; a component's arguments are JSON values")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
