"""From a name to a built model: the only file that builds from the registry."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitzoo.attention.maps import set_attention
from vitzoo.attention.select import Attend, AttnLike
from vitzoo.block import BlockParts
from vitzoo.catalog import find_model
from vitzoo.config import Component, FrozenDict, ViTConfig
from vitzoo.embed.patch import PatchParts
from vitzoo.errors import ConfigError, VitzooError, suggestion
from vitzoo.features import FeatureExtractor
from vitzoo.model import VisionTransformer
from vitzoo.plugin import get_entry
from vitzoo.pool.simple import Pool, PoolParts
from vitzoo.preprocess import Preprocess
from vitzoo.provenance import announce
from vitzoo.weights.apply import apply_weights
from vitzoo.weights.default import DEFAULT, open_default
from vitzoo.weights.formats.base import Reading
from vitzoo.weights.origin import origin_of
from vitzoo.weights.own import prepare_own
from vitzoo.weights.pages import on_fresh_pages
from vitzoo.weights.prepare import Prepared, prepare
from vitzoo.weights.report import LoadReport, Note
from vitzoo.weights.source import Source, open_source


def create(
    name: str | ViTConfig,
    /,
    *,
    weights: str | Path | Source | None = None,
    pretrained: bool = False,
    format: str | None = None,
    reset: str | Sequence[str] = (),
    attn: AttnLike = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **config: Any,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: a variant ('vit_small', 'vit_base_patch16_224', with '.tag' for the switches that belong to one set of
            weights), a plugin's model ('swin/tiny'), or a ViTConfig.
        weights: a file (.safetensors, or .pth and .bin, read without unpickling), a directory, also of shards, or
            'hf-hub:org/name[@revision]'; 'default' for the public checkpoint of the name's tag, or of the variant's
            first, with its switches; None for freshly drawn weights. See `model.load_report`, `model.provenance`.
        pretrained: the same as `weights="default"`.
        format: the weights' format, one of `list_components("weights")` or 'vitzoo'; detected when None.
        reset: parts to draw anew instead of loading them: 'head'.
        attn: 'auto', the name of an attention backend (that one and no other), or several in order.
        device: where the model is built; torch's default device when None.
        dtype: of its weights; torch's default dtype when None.
        features_only: return a model that gives the features of chosen blocks, each (B, C, rows, columns).
        out_indices: the last n blocks, or these blocks, for `features_only`; 3 when None.
        **config: settings of ViTConfig to change: `img_size=384`, `pool="map"`, `norm=("layernorm", {"eps": 1e-5})`;
            for a plugin's model, its own arguments.

    Returns:
        The model, in training mode like every new torch module.

    Raises:
        UnknownNameError: nothing has such a name; the message holds the near names.
        ConfigError: a setting that does not exist, or that no model can have.
        BackendUnsupported: `attn` can never run here, or never this model.
        CheckpointError: the weights do not fit, or there is no default checkpoint; nothing was loaded.
        PluginError: the name belongs to a plugin that is missing or broken.

    Warns:
        LicenseWarning: the licence of the weights is not permissive, or they are gated; once for a checkpoint.
    """
    if pretrained and weights is not None:
        raise ConfigError(f"pretrained=True is weights='default'; weights={str(weights)!r} was given too")
    if pretrained or weights == DEFAULT:
        name, weights = open_default(name)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype={dtype!r} is no floating dtype of torch, such as torch.float16")
    if out_indices is not None and not features_only:
        raise ConfigError(f"out_indices={out_indices!r} is for features_only=True")
    recipe = recipe_of(name, config, attn)
    if weights is None:
        if format is not None or reset:
            raise ConfigError(f"format={format!r} and reset={reset!r} are for weights=...")
        with torch.device(torch.get_default_device() if device is None else device):
            model = recipe.build()
            if isinstance(model, VisionTransformer):
                model.init_weights(needs_reset=False)
        model = model if dtype is None else model.to(dtype)
    elif recipe.config is None:
        source = weights if isinstance(weights, Source) else open_source(weights)
        parts = (reset,) if isinstance(reset, str) else tuple(reset)
        model = load_own(recipe, source, given=config, format=format, reset=parts, device=device, dtype=dtype)
    else:
        source = weights if isinstance(weights, Source) else open_source(weights)
        with torch.device("meta"):
            empty = recipe.build()
        own, parts = empty.state_dict(), (reset,) if isinstance(reset, str) else tuple(reset)
        prepared = prepare(source, config=recipe.config, own=own, given=config, format=format, reset=parts)
        built = empty if prepared.config == recipe.config else None
        model = load_prepared(recipe, prepared, source, empty=built, device=device, dtype=dtype)
    return FeatureExtractor(model, 3 if out_indices is None else out_indices) if features_only else model


def load_own(
    recipe: Recipe,
    source: Source,
    *,
    given: Mapping[str, Any],
    format: str | None,
    reset: Sequence[str],
    reading: Reading | None = None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Build a plugin's own model with weights, or raise; the arguments are those of `prepare_own`."""

    def build(options: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            return replace(recipe, options=FrozenDict(options)).build()

    prepared, empty = prepare_own(
        source,
        name=recipe.name,
        options=recipe.options,
        build=build,
        given=given,
        format=format,
        reset=reset,
        reading=reading,
    )
    recipe = replace(recipe, options=FrozenDict(prepared.options))
    return load_prepared(recipe, prepared, source, empty=empty, device=device, dtype=dtype)


def load_prepared(
    recipe: Recipe,
    prepared: Prepared,
    source: Source,
    *,
    empty: nn.Module | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Build a model with its weights and its load report, or raise; `empty` is it on meta, if that is built already."""
    recipe = replace(recipe, config=prepared.config)
    # Built without memory, since every weight comes from the file.
    if empty is None:
        with torch.device("meta"):
            empty = recipe.build()
    model = recipe.build() if _computes_buffers(empty) else empty
    apply_weights(
        model,
        on_fresh_pages(prepared.state, source),
        device=torch.get_default_device() if device is None else torch.device(device),
        dtype=torch.get_default_dtype() if dtype is None else dtype,
    )
    if prepared.preprocess is not None:
        model.preprocess = prepared.preprocess  # type: ignore[assignment]
    if prepared.labels:
        model.labels = prepared.labels  # type: ignore[assignment]
    why = "torch's DistributedDataParallel or torch.compile put it before every name"
    read = [Note(action="dropped", what=source.prefix, why=why)] if source.prefix else []
    if source.averaged:
        why = f"the averaged weights were read, {source.averaged}, as timm reads them"
        read.append(Note(action="dropped", what="the last weights", why=why))
    model.load_report = LoadReport(  # type: ignore[assignment]
        source=source.name,
        files=source.files,
        revision=source.revision,
        format=prepared.format,
        tensors=len(prepared.state),
        notes=(*read, *prepared.notes),
    )
    model.provenance = origin_of(source, recipe.name)  # type: ignore[assignment]
    announce(model.provenance)  # type: ignore[arg-type]
    return model


def build(config: ViTConfig, attend: Attend) -> VisionTransformer:
    """Build a ViT of registered components, its linear layers as torch draws them.

    Args:
        config: the settings.
        attend: runs the attention of all layers.

    Raises:
        UnknownNameError: a slot names a component that nothing has.
        ConfigError: the components do not fit each other, or take no such arguments.
        BackendUnsupported: the backend can never run this head dim.
    """
    norm = partial(make, "norm", config.norm)
    mlp = partial(make, "mlp", config.mlp)
    builder = Builder(attend)
    patch_parts = PatchParts(
        img_size=config.img_size,
        patch_size=config.patch_size,
        in_chans=config.in_chans,
        embed_dim=config.embed_dim,
        bias=not config.pre_norm,
        dynamic_img_size=config.dynamic_img_size,
        dynamic_img_pad=config.dynamic_img_pad,
        norm=norm,
    )
    last = max(1, config.depth - 1)
    blocks = [
        make(
            "block",
            config.block,
            BlockParts(
                dim=config.embed_dim,
                num_heads=config.num_heads,
                mlp_hidden_dim=config.mlp_hidden_dim,
                index=index,
                qkv_bias=config.qkv_bias,
                qkv_fused=config.qkv_fused,
                qk_norm=config.qk_norm,
                proj_bias=config.proj_bias,
                scale_attn_norm=config.scale_attn_norm,
                scale_mlp_norm=config.scale_mlp_norm,
                init_values=config.init_values,
                proj_drop=config.proj_drop_rate,
                attn_drop=config.attn_drop_rate,
                drop_path=config.drop_path_rate * index / last,
                attend=attend,
                norm=norm,
                mlp=mlp,
                act_layer=getattr(get_entry("mlp", config.mlp.name).load(), "act_layer", None),
                mlp_name=config.mlp.name,
            ),
        )
        for index in range(config.depth)
    ]
    return VisionTransformer(
        config,
        patch_embed=make("patch_embed", config.patch_embed, patch_parts),
        position=make("pos_embed", config.pos_embed, embed_dim=config.embed_dim),
        rope=make("rope", config.rope, head_dim=config.head_dim, num_heads=config.num_heads, depth=config.depth),
        blocks=blocks,
        norm_pre=norm(config.embed_dim) if config.pre_norm else nn.Identity(),
        norm=norm(config.embed_dim) if config.final_norm and not config.uses_fc_norm else nn.Identity(),
        pool=builder.pool(config),
        fc_norm=norm(config.embed_dim) if config.uses_fc_norm else nn.Identity(),
        builder=builder,
    )


@dataclass(frozen=True)
class Builder:
    """What a model keeps to build a part later by name."""

    attend: Attend

    def pool(self, config: ViTConfig) -> Pool:
        """Return the pool that `config` names."""
        pool: Pool = make(
            "pool",
            config.pool,
            PoolParts(
                dim=config.embed_dim,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                include_prefix=config.pool_include_prefix,
                attend=self.attend,
                norm=partial(make, "norm", config.norm),
                mlp=partial(make, "mlp", config.mlp),
            ),
        )
        return pool


def make(kind: str, component: Component, *args: Any, **kwargs: Any) -> Any:
    """Build one component from what its protocol gives it and from its own arguments.

    Raises:
        UnknownNameError: nothing of that kind has the name.
        ConfigError: it takes no such argument, not such a value of it, or needs one that is not there.
    """
    target = get_entry(kind, component.name).load()
    parameters = inspect.signature(target).parameters.values()
    own = [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in kwargs
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for name in component.args:
        if name in kwargs or not (takes_any or name in own):
            raise ConfigError(
                f"{kind} {component.name!r} takes no argument {name!r} (possible: {', '.join(own) or 'none'})."
                f"{suggestion(name, own)}"
            )
    for parameter in parameters:
        if parameter.name in own and parameter.default is parameter.empty and parameter.name not in component.args:
            raise ConfigError(
                f"{kind} {component.name!r} needs the argument {parameter.name!r}: "
                f"{kind}=({component.name!r}, {{{parameter.name!r}: ...}})"
            )
    try:
        return target(*args, **kwargs, **component.args)
    except (TypeError, ValueError) as error:
        # Without arguments of its own the component itself is at fault, not the config.
        if isinstance(error, VitzooError) or not component.args:
            raise
        raise ConfigError(f"{kind} {component.name!r} cannot be built with {dict(component.args)}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build: a ViT of these settings, or what a plugin's function returns."""

    name: str
    attn: AttnLike
    config: ViTConfig | None = None
    preprocess: Preprocess | None = None
    target: Any = None
    options: FrozenDict = field(default_factory=FrozenDict)

    def build(self) -> nn.Module:
        """Return the model, as torch draws it."""
        model: nn.Module
        if self.config is not None:
            model = build(self.config, Attend(self.attn))
            if self.preprocess is not None:
                model.preprocess = self.preprocess
        else:
            model = self.target(**self.options)
            if self.attn != "auto":
                set_attention(model, self.attn)
            if not hasattr(model, "config"):
                model.config = self.options  # type: ignore[assignment]
        model.model_name = self.name  # type: ignore[assignment]
        return model


def recipe_of(name: str | ViTConfig, config: dict[str, Any], attn: AttnLike) -> Recipe:
    """Return what to build for a name and the caller's settings.

    Raises:
        UnknownNameError: nothing has such a name.
        ConfigError: a setting that does not exist, or that no ViT can have.
    """
    if isinstance(name, ViTConfig):
        return Recipe(name="", attn=attn, config=name.with_changes(**config))
    found = find_model(name)
    if found.config is None:
        return Recipe(name=found.name, attn=attn, target=found.target, options=FrozenDict(config))
    return Recipe(name=found.name, attn=attn, config=found.config.with_changes(**config), preprocess=found.preprocess)


def _computes_buffers(model: nn.Module) -> bool:
    """Whether a part holds a buffer that no checkpoint has, so that it must be built for real."""
    kept = set(model.state_dict())
    return any(name not in kept for name, _ in model.named_buffers())
