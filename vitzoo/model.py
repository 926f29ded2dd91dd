"""The Vision Transformer: takes built parts and wires them. It never sees a registry.

State-dict keys are those of timm's `VisionTransformer`, so that its checkpoints load unchanged and ours load there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitzoo.attention.mask import split_mask
from vitzoo.config import ComponentLike, ViTConfig, component_in
from vitzoo.embed.patch import PatchEmbed
from vitzoo.embed.position import Positions
from vitzoo.embed.rope import Rope, Rotation
from vitzoo.errors import ConfigError, InputError
from vitzoo.init import init_vit
from vitzoo.pool.simple import Pool
from vitzoo.surface import Surface

OutputFormat = Literal["NCHW", "NLC"]


class Builder(Protocol):
    """What the model keeps of its builder: a way to make a pool by name."""

    def pool(self, config: ViTConfig) -> Pool:
        """Return the pool that `config` names."""
        ...


class VisionTransformer(Surface):
    """A plain Vision Transformer of built parts; `vitzoo.create` builds it.

    Args:
        config: the numbers and switches; the parts were built from the same.
        patch_embed: images to tokens.
        position: computes what is added to the tokens.
        rope: computes the rotations inside attention, or None.
        blocks: `config.depth` blocks.
        norm_pre: before the blocks.
        norm: after the blocks.
        pool: tokens to features.
        fc_norm: after the pool.
        builder: makes the pool that `reset_classifier` names.

    Raises:
        ConfigError: the blocks merge tokens, and there is a rope.

    Source: arXiv 2010.11929.
    """

    def __init__(
        self,
        config: ViTConfig,
        *,
        patch_embed: PatchEmbed,
        position: Positions,
        rope: Rope | None,
        blocks: Sequence[nn.Module],
        norm_pre: nn.Module,
        norm: nn.Module,
        pool: Pool,
        fc_norm: nn.Module,
        builder: Builder,
    ) -> None:
        super().__init__(config)
        self.builder = builder
        self.grad_checkpointing = False
        self.distilled_training = False

        dim = config.embed_dim
        self.patch_embed = patch_embed
        self.position = position
        self.rope = rope
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if config.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim)) if config.dist_token else None
        self.reg_token = nn.Parameter(torch.empty(1, config.reg_tokens, dim)) if config.reg_tokens else None
        self.mask_token = nn.Parameter(torch.empty(1, dim)) if config.mask_token else None
        prefix_rows = 0 if config.no_embed_class else config.num_prefix_tokens
        shape = position.table_shape(prefix_rows + patch_embed.num_patches)
        self.pos_embed = nn.Parameter(torch.empty(shape)) if shape is not None else None
        self.norm_pre = norm_pre
        self.blocks = nn.ModuleList(blocks)
        if self.merges_tokens and rope is not None:
            raise ConfigError(
                f"block={config.block.name!r} merges tokens, which then have no one place to rotate by; "
                f"got rope={config.rope.name!r}, possible: rope='none', with positions that are added (pos_embed)"
            )
        self.norm = norm
        self.attn_pool = pool
        self.fc_norm = fc_norm
        self.head = self._make_head()
        self.head_dist = self._make_head() if config.pool.name == "distilled" else None

    @property
    def merges_tokens(self) -> bool:
        """Whether its blocks return fewer tokens than they are given."""
        return any(_merges(block) for block in self.blocks)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, patch_mask: Tensor | None = None) -> Any:
        """Classify images.

        Args:
            x: (B, in_chans, H, W).
            attn_mask: which tokens see which, prefix tokens included; True (or 0) is visible, False (or -inf) is not:
                (N, N), (B, N, N), (B, 1 or H, 1 or N, N), boolean or added to the scores.
            patch_mask: (B, patches), True where the mask token stands in for the patch.

        Returns:
            Logits (B, num_classes); features (B, C) when num_classes is 0; (B, N, ...) when the pool is 'none'. A
            distilled model in distilled training returns the logits of its two heads.

        Raises:
            InputError: the image or a mask does not fit the model.
            BackendUnsupported: the chosen attention backend cannot run the call.
        """
        return self.forward_head(self.forward_features(x, attn_mask=attn_mask, patch_mask=patch_mask))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, patch_mask: Tensor | None = None) -> Tensor:
        """Return all tokens (B, P + N, C) after the blocks and the final norm; arguments as for `forward`.

        Blocks that merge tokens leave fewer.
        """
        tokens, rotations, _ = self._embed(x, patch_mask)
        bias, key_mask = self._split_mask(attn_mask, tokens)
        sizes: Tensor | None = None
        for block, rotation in zip(self.blocks, rotations, strict=True):
            tokens, sizes = self._run(block, tokens, sizes, bias, key_mask, rotation)
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Pool tokens (B, P + N, C) and classify them.

        Args:
            x: what `forward_features` returned.
            pre_logits: return the features (B, C) that the head would read.
        """
        features = self.fc_norm(self.attn_pool(x, self.num_prefix_tokens))
        if self.config.drop_rate:
            features = F.dropout(features, self.config.drop_rate, self.training)
        if self.head_dist is None:
            return features if pre_logits else self.head(features)
        if pre_logits:
            return features.mean(dim=1)
        logits, logits_dist = self.head(features[:, 0]), self.head_dist(features[:, 1])
        if self.distilled_training and self.training:
            return logits, logits_dist
        return (logits + logits_dist) / 2

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: OutputFormat = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Return the features of chosen blocks beside the last ones.

        Args:
            x: (B, in_chans, H, W).
            indices: the last n blocks, or these blocks; None: all.
            return_prefix_tokens: return (patches, prefix tokens) for each block.
            norm: apply the final norm to every one.
            stop_early: run no block after the last one asked for.
            output_fmt: patches as 'NCHW' or 'NLC'.
            intermediates_only: return the list alone.
            output_dict: return a dict with image_features, image_intermediates and image_intermediates_prefix.
            attn_mask: as for `forward`.

        Returns:
            (tokens (B, P + N, C) after the final norm, list of (B, C, rows, columns) or (B, N, C)); the list alone, or
            a dict.

        Raises:
            InputError: an index or a format that does not exist; 'NCHW' of blocks that merge tokens, or while training
                with `patch_drop_rate`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"output_fmt={output_fmt!r} is unknown (possible: 'NCHW', 'NLC')")
        if output_fmt == "NCHW" and self.merges_tokens:
            raise InputError(
                f"block={self.config.block.name!r} merges tokens, which then lie on no grid; "
                "got output_fmt='NCHW' (possible: 'NLC', with fewer tokens at each level)"
            )
        if output_fmt == "NCHW" and self._drops_patches:
            raise InputError(
                f"patch_drop_rate={self.config.patch_drop_rate} drops patches while training, and the others then lie "
                "on no grid; got output_fmt='NCHW' (possible: 'NLC', model.eval(), or patch_drop_rate=0)"
            )
        taken = self._taken(indices)
        tokens, rotations, grid = self._embed(x, None)
        bias, key_mask = self._split_mask(attn_mask, tokens)
        sizes: Tensor | None = None
        picked: dict[int, Tensor] = {}
        for i, (block, rotation) in enumerate(zip(self.blocks, rotations, strict=True)):
            if stop_early and i > max(taken):
                break
            tokens, sizes = self._run(block, tokens, sizes, bias, key_mask, rotation)
            if i in taken:
                picked[i] = self.norm(tokens) if norm else tokens
        prefix_count = self.num_prefix_tokens
        prefixes = [picked[i][:, :prefix_count] for i in taken]
        patches = [picked[i][:, prefix_count:] for i in taken]
        if output_fmt == "NCHW":
            patches = [part.transpose(1, 2).reshape(part.shape[0], part.shape[2], *grid) for part in patches]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": patches}
            if return_prefix_tokens and prefix_count:
                result["image_intermediates_prefix"] = prefixes
            if not intermediates_only:
                result["image_features"] = self.norm(tokens)
            return result
        listed = list(zip(patches, prefixes, strict=True)) if return_prefix_tokens and prefix_count else patches
        return listed if intermediates_only else (self.norm(tokens), listed)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Return the features of the last n blocks or of these blocks; DINO's interface, with timm's `norm=False`."""
        return self.forward_intermediates(
            x,
            n,
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
            attn_mask=attn_mask,
        )

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen blocks' features do not need: later blocks, and the final norm and the head if asked.

        Returns:
            The blocks' numbers.
        """
        taken = self._taken(indices)
        depth = max(taken) + 1
        self.blocks = self.blocks[:depth]
        if self.rope is not None:
            self.rope.keep(depth)
        # The blocks that are left keep their own rates, which rise to that of the last of them.
        rate = self.config.drop_path_rate * (depth - 1) / max(1, self.config.depth - 1)
        changes: dict[str, Any] = {"depth": depth, "drop_path_rate": rate}
        if prune_norm:
            self.norm = nn.Identity()
            if not self.config.uses_fc_norm:
                changes["final_norm"] = False
        if prune_head:
            self.reset_classifier(0, "none")
            self.fc_norm = nn.Identity()
            if self.config.uses_fc_norm:
                changes["final_norm"] = False
        self.config = self.config.with_changes(**changes)
        return taken

    def get_classifier(self) -> Any:
        """Return the head; both heads of a distilled model."""
        return self.head if self.head_dist is None else (self.head, self.head_dist)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Let forward return the logits of both heads while training."""
        self.distilled_training = enable

    def reset_classifier(
        self, num_classes: int, pool: ComponentLike | None = None, *, global_pool: ComponentLike | None = None
    ) -> None:
        """Put a new head on the model, and another pool if one is named. The norms stay where they are.

        Args:
            num_classes: outputs; 0 for no head.
            pool: a pool's name or component; None keeps the present one. 'distilled' adds the distillation token that
                the model lacks.
            global_pool: timm's spelling of `pool`.

        Raises:
            UnknownNameError: there is no such pool.
            ConfigError: the pool does not fit the model; the model is left as it was.
        """
        if pool is not None and global_pool is not None:
            raise ConfigError("pool and global_pool are one setting, and both were given")
        pool = global_pool if pool is None else pool
        changes: dict[str, Any] = {"num_classes": num_classes, "fc_norm": self.config.uses_fc_norm}
        if pool is not None:
            changes["pool"] = component_in("pool", pool)
            if changes["pool"].name == "distilled" and self.config.class_token:
                changes["dist_token"] = True
        config = self.config.with_changes(**changes)
        weight = self._any_parameter()
        if pool is not None and config.pool != self.config.pool:
            # Built first: if this raises, nothing has changed.
            new_pool = self.builder.pool(config).to(weight.device, weight.dtype)
            init_vit(new_pool)
            self.attn_pool = new_pool.train(self.training)
        if config.dist_token and self.dist_token is None:
            self._add_dist_token()
        self.config, self.labels = config, ()
        self.head = self._make_head().to(weight.device, weight.dtype).train(self.training)
        init_vit(self.head)
        self.head_dist = None
        if config.pool.name == "distilled":
            self.head_dist = self._make_head().to(weight.device, weight.dtype).train(self.training)
            init_vit(self.head_dist)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Make the model one for another image size, patch size or both: its table and its patch kernel are resized.

        Args:
            img_size: (height, width) or one side, in pixels; None keeps it.
            patch_size: (height, width) or one side, in pixels; None keeps it.

        Raises:
            ConfigError: a size that is not positive, or a patch embedding that cannot change its patch size.
            InputError: the patches do not divide the image; the model is left as it was.
        """
        sizes: dict[str, Any] = {"img_size": img_size, "patch_size": patch_size}
        config = self.config.with_changes(**{name: size for name, size in sizes.items() if size is not None})
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(config.img_size, config.patch_size)
        self.config = config
        new_grid = self.patch_embed.grid_size
        if self.pos_embed is not None and new_grid != old_grid:
            with torch.no_grad():
                resized = self.position.resize(self.pos_embed, old_grid, new_grid)
            self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, instead of keeping what it computed."""
        self.grad_checkpointing = enable

    @torch.no_grad()
    def init_weights(self, mode: str = "", *, needs_reset: bool = True) -> None:
        """Draw all weights anew.

        Args:
            mode: '' for normal(0.02) linear layers, 'jax', 'jax_nlhb' or 'moco' as in timm; 'reset' for torch's own.
            needs_reset: reset the parts too that draw their weights when they are made.

        Raises:
            ConfigError: no such mode.
        """
        init_vit(self, mode, needs_reset=needs_reset, num_classes=self.num_classes)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02)
        for token, std in (
            (self.cls_token, 1e-6),
            (self.reg_token, 1e-6),
            (self.dist_token, 0.02),
            (self.mask_token, 0.02),
        ):
            if token is not None:
                nn.init.normal_(token, std=std)

    @property
    def _drops_patches(self) -> bool:
        return bool(self.config.patch_drop_rate) and self.training

    def _make_head(self) -> nn.Module:
        return nn.Linear(self.config.embed_dim, self.num_classes) if self.num_classes else nn.Identity()

    def _any_parameter(self) -> Tensor:
        return next(self.parameters())

    def _add_dist_token(self) -> None:
        like = self._any_parameter()
        self.dist_token = nn.Parameter(torch.empty(1, 1, self.embed_dim, device=like.device, dtype=like.dtype))
        nn.init.normal_(self.dist_token, std=0.02)
        if self.pos_embed is not None and not self.config.no_embed_class:
            row = torch.zeros_like(self.pos_embed[:, :1])
            self.pos_embed = nn.Parameter(
                torch.cat([self.pos_embed.detach()[:, :1], row, self.pos_embed.detach()[:, 1:]], dim=1),
                requires_grad=self.pos_embed.requires_grad,
            )

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        depth = len(self.blocks)
        if indices is None:
            return list(range(depth))
        if isinstance(indices, int):
            if not 1 <= indices <= depth:
                raise InputError(f"the last {indices} blocks were asked for (possible: 1 to {depth})")
            return list(range(depth - indices, depth))
        for index in indices:
            if not -depth <= index < depth:
                raise InputError(f"block {index} was asked for (possible: {-depth} to {depth - 1})")
        if not indices:
            raise InputError("no block was asked for")
        return [index % depth for index in indices]

    def _embed(self, x: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, list[Rotation | None], tuple[int, int]]:
        """Return tokens (B, P + N, C) before the first block, each block's rotation, and the grid."""
        patches, grid = self.patch_embed(x)
        if patch_mask is not None:
            patches = self._masked(patches, patch_mask)
        prefix_position, patch_position = self.position(patches, self.pos_embed, self.patch_embed.grid_size, grid)
        if patch_position is not None:
            patches = patches + patch_position
        prefix: list[Tensor] = [
            token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None
        ]
        tokens = patches
        if prefix:
            # The prefix is the same for all images: its positions are added once.
            first = torch.cat(prefix, dim=1) if len(prefix) > 1 else prefix[0]
            first = first if prefix_position is None else first + prefix_position
            tokens = torch.cat([first.expand(patches.shape[0], -1, -1), patches], dim=1)
        if self.config.pos_drop_rate:
            tokens = F.dropout(tokens, self.config.pos_drop_rate, self.training)
        rotations: list[Rotation | None] = [None] * len(self.blocks)
        if self.rope is not None:
            rotations = list(self.rope(tokens, grid, self.num_prefix_tokens))[: len(self.blocks)]
        if self._drops_patches:
            tokens, rotations = self._drop_patches(tokens, rotations)
        return self.norm_pre(tokens), rotations, grid

    def _masked(self, patches: Tensor, patch_mask: Tensor) -> Tensor:
        if self.mask_token is None:
            raise InputError("patch_mask needs a mask token: create the model with mask_token=True")
        if patch_mask.shape != patches.shape[:2] or patch_mask.dtype != torch.bool:
            raise InputError(
                f"patch_mask is boolean of shape {tuple(patches.shape[:2])} (images, patches); "
                f"got {patch_mask.dtype} of shape {tuple(patch_mask.shape)}"
            )
        return torch.where(patch_mask[..., None], self.mask_token.to(patches.dtype), patches)

    def _drop_patches(self, tokens: Tensor, rotations: list[Rotation | None]) -> tuple[Tensor, list[Rotation | None]]:
        """Keep a random share of each image's patches, and the rotations that belong to them."""
        batch, count, channels = tokens.shape
        prefix = self.num_prefix_tokens
        num_kept = max(1, int((count - prefix) * (1 - self.config.patch_drop_rate)))
        kept = torch.rand(batch, count - prefix, device=tokens.device).argsort(dim=1)[:, :num_kept] + prefix
        first = torch.arange(prefix, device=tokens.device).expand(batch, -1)
        kept = torch.cat([first, kept], dim=1)  # (B, P + kept)
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, channels))
        picked = [
            None if rotation is None else Rotation(rotation.sin[kept], rotation.cos[kept], rotation.by_half)
            for rotation in rotations
        ]
        return tokens, picked

    def _split_mask(self, attn_mask: Tensor | None, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if attn_mask is None:
            return None, None
        if self.merges_tokens:
            raise InputError(
                f"attn_mask says which of {tokens.shape[1]} tokens see which, and block={self.config.block.name!r} "
                "merges them; possible: no attn_mask, or a block that keeps every token, such as 'pre_norm'"
            )
        if self._drops_patches:
            raise InputError(
                "attn_mask and patch_drop_rate do not go together while training: the mask's tokens are dropped"
            )
        return split_mask(attn_mask, tokens, num_heads=self.config.num_heads)

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        sizes: Tensor | None,
        bias: Tensor | None,
        key_mask: Tensor | None,
        rotation: Rotation | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens after the block, and of how many tokens of the image each is made."""
        again = self.grad_checkpointing and torch.is_grad_enabled()
        if _merges(block):
            # Sizes go in and out beside the tokens, so that recomputing a block, copying a model or tracing it is safe.
            prefix = self.num_prefix_tokens
            return checkpoint(block, x, sizes, prefix, use_reentrant=False) if again else block(x, sizes, prefix)
        if again:
            x = checkpoint(block, x, bias=bias, key_mask=key_mask, rotation=rotation, use_reentrant=False)
        else:
            x = block(x, bias=bias, key_mask=key_mask, rotation=rotation)
        return x, sizes


def _merges(block: nn.Module) -> bool:
    return bool(getattr(block, "merges_tokens", False))
