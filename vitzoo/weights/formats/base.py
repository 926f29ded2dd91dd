"""What a foreign checkpoint format is: an object that recognises weights, reads them and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from vitzoo.config import Component, ComponentLike, ViTConfig
from vitzoo.errors import CheckpointError
from vitzoo.preprocess import Preprocess
from vitzoo.weights.report import Note
from vitzoo.weights.source import Source


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Weights under vitzoo's names, with what they say of their model.

    Args:
        state: {vitzoo's name: tensor}. What the format does not know keeps its name, and is refused as unexpected.
        settings: fields of ViTConfig, or arguments of a plugin's own model, as the tensors and the source's conventions
            have them.
        unknown: {setting: what to do}, for what neither tells.
        model: the name of a variant whose settings the checkpoint names, or None; for a plugin's own model its name.
        switches: names of those settings of a plugin's own model that change numbers without its user knowing: they
            hold also where the caller named the model, unless he gave them. For plain ViTs they are known.
        preprocess: what the images are expected to be, when the source says so.
        labels: the names of the classes, by number; empty when the source names none.
        notes: what was done.
        assumed: what is to be said of `model` besides, when the caller named none.
    """

    state: dict[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    switches: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    assumed: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Weights in a foreign format.

    Args:
        state: {the format's name: tensor}.
        weights_file: the file's name in a directory of that format.
        files: {name: JSON object} that stand beside it; none when the format is one file of weights alone.
        notes: what was converted, and what the format does not hold.
    """

    state: dict[str, Tensor]
    weights_file: str = "model.safetensors"
    files: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


class Format(Protocol):
    """A foreign checkpoint format; registered as kind 'weights'. It may be a class without arguments or an object.

    Registered with `models='acme/*'` it is for the models whose names that pattern matches; without, for plain ViTs.
    """

    def reasons_against(self, source: Source) -> list[str]:
        """Return every reason why `source` is not of this format, each a few words; an empty list when it is."""
        ...

    def read(self, source: Source, hints: Mapping[str, Any]) -> Reading:
        """Return the weights under vitzoo's names.

        Args:
            source: the tensors, and the JSON object beside them.
            hints: settings that the caller gave, or those of the model that the caller named: a format may need them
                where the tensors do not tell (`num_heads`).

        Raises:
            CheckpointError: the weights are of this format, but of a model that vitzoo cannot build.
        """
        ...

    def write(self, state: Mapping[str, Tensor], config: Any, preprocess: Preprocess) -> Writing:
        """Return a model's weights in this format.

        Args:
            state: {vitzoo's name: tensor}.
            config: the model's settings: a ViTConfig, or a mapping with the arguments of a plugin's own model.
            preprocess: what its images are expected to be.

        Raises:
            CheckpointError: the format has no place for such a model; the message holds every reason.
        """
        ...


# What the formats have a place for, unless they say otherwise.
PLAIN: dict[str, Any] = {
    "patch_embed": ("conv", "linear"),
    "pos_embed": "learned",
    "rope": "none",
    "block": "pre_norm",
    "norm": "layernorm",
    "mlp": "gelu",
    "pool": "token",
    "class_token": True,
    "dist_token": False,
    "reg_tokens": 0,
    "no_embed_class": False,
    "pre_norm": False,
    "final_norm": True,
    "uses_fc_norm": False,
    "pool_include_prefix": False,
    "qkv_bias": (True, "qv"),
    "qk_norm": False,
    "proj_bias": True,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "init_values": None,
}


def require(config: ViTConfig, format: str, *, rest: bool = False, **own: Any) -> None:
    """Raise unless each field has the value, or one of a tuple of values, that the format has a place for.

    Args:
        config: the model's settings. A component is compared by its name; those of `patch_embed` and `pool` are to have
            no arguments, and the patches are to fill the image.
        format: the format's name.
        rest: the format holds the image's size, and passes over pixels that make no whole patch (`drop_rest`).
        **own: where the format differs from `PLAIN`.

    Raises:
        CheckpointError: a field has another value; the message holds all of them.
    """
    reasons = []
    for field_name, allowed in (PLAIN | own).items():
        value = getattr(config, field_name)
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        if (value.name if isinstance(value, Component) else value) not in allowed:
            shown = str(value) if isinstance(value, Component) else repr(value)
            reasons.append(f"{field_name}={shown} (possible: {', '.join(map(repr, allowed))})")
    dropped = "drop_rest" if rest else None
    for component in (config.patch_embed, config.pool):
        given = [name for name, value in component.args.items() if value and name != dropped]
        reasons += [f"{component}: {', '.join(given)} has no place"] if given else []
    whole = all(side % patch == 0 for side, patch in zip(config.img_size, config.patch_size, strict=True))
    if not whole and not config.patch_embed.args.get("drop_rest"):
        reasons.append(f"img_size={config.img_size} is padded to whole patches of {config.patch_size}")
    refuse(format, reasons)


def refuse(format: str, reasons: list[str]) -> None:
    """Raise CheckpointError with all the reasons, when there are any."""
    if reasons:
        raise CheckpointError(f"format {format!r} has no place for this model: {'; '.join(reasons)}")


def square(config: ViTConfig, format: str) -> tuple[int, int]:
    """Return (image side, patch side).

    Raises:
        CheckpointError: one of them is no square.
    """
    reasons = [
        f"{name}={size} is not a square"
        for name, size in (("img_size", config.img_size), ("patch_size", config.patch_size))
        if size[0] != size[1]
    ]
    refuse(format, reasons)
    return config.img_size[0], config.patch_size[0]


def norm_of(eps: float) -> ComponentLike:
    """Return the layer norm of that eps, as a config has it."""
    return "layernorm" if eps == 1e-6 else ("layernorm", {"eps": float(eps)})


def eps_of(config: ViTConfig) -> float:
    """Return the eps of the config's norm."""
    return float(config.norm.args.get("eps", 1e-6))
