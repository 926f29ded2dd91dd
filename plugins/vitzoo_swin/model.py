"""The model. State-dict keys are those of timm's Swin models: its weights load unchanged, and ours load there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vitzoo.attention.select import Attend
from vitzoo.embed.patch import ConvPatchEmbed, PatchParts
from vitzoo.errors import ConfigError, InputError
from vitzoo.init import init_vit
from vitzoo.norm import LayerNorm
from vitzoo.weights.report import Note
from vitzoo_swin.block import EPS, Stage
from vitzoo_swin.config import Pair, SwinConfig, per_stage
from vitzoo_swin.head import Head
from vitzoo_swin.resize import resize_attention, resized_state
from vitzoo_swin.surface import Surface


class SwinTransformer(Surface):
    """Swin Transformer, version 1 and 2.

    Args:
        settings: the numbers and switches.
        crop_pct: share of the resized image that evaluation cuts out of its centre.

    Source: arXiv 2103.14030 and arXiv 2111.09883.
    """

    def __init__(self, settings: SwinConfig, *, crop_pct: float = 0.9) -> None:
        super().__init__(settings, crop_pct=crop_pct)
        # The windows that the model was made with, which another image size scales.
        self.made_for = (settings.window_size, settings.grids[0])
        attend = Attend()
        self.patch_embed = ConvPatchEmbed(
            PatchParts(
                img_size=settings.img_size,
                patch_size=settings.patch_size,
                in_chans=settings.in_chans,
                embed_dim=settings.embed_dim,
                bias=True,
                dynamic_img_size=settings.dynamic_img_size,
                dynamic_img_pad=False,
                norm=lambda width: LayerNorm(width, eps=EPS),
            ),
            use_norm=True,
        )
        self.layers = nn.Sequential(*(Stage(settings, stage, attend=attend) for stage in range(len(settings.depths))))
        self.norm = LayerNorm(self.num_features, eps=EPS) if settings.final_norm else nn.Identity()
        self.head = self._make_head()
        self.init_weights(needs_reset=False)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: (B, in_chans, H, W).

        Returns:
            Logits (B, num_classes); features (B, C) when num_classes is 0; (B, R, K, ...) when the pool is 'none'.

        Raises:
            InputError: the image does not fit the model.
            BackendUnsupported: the chosen attention backend cannot run the call.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens (B, R, K, C) of the last stage, after the final norm."""
        return self.norm(self.layers(self._embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens (B, R, K, C) and classify them; `pre_logits`: return what the head would read."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the features of chosen stages beside the last ones.

        Args:
            x: (B, in_chans, H, W).
            indices: the last n stages, or these stages; None: all.
            norm: apply the final norm to the last stage's, the only one that it fits.
            stop_early: run no stage after the last one asked for.
            output_fmt: 'NCHW' or 'NHWC'.
            intermediates_only: return the list alone.

        Returns:
            (tokens (B, R, K, C), list of (B, C, R, K) or (B, R, K, C)), or the list alone. The tokens are those of the
            last stage after the final norm, or of the last stage that ran.

        Raises:
            InputError: a stage or a format that does not exist.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise InputError(f"output_fmt={output_fmt!r} is unknown (possible: 'NCHW', 'NHWC')")
        taken, last = self._taken(indices), len(self.layers) - 1
        picked: dict[int, Tensor] = {}
        x = self._embed(x)
        for index, stage in enumerate(self.layers):
            if stop_early and index > max(taken):
                break
            x = stage(x)
            final = self.norm(x) if index == last else x
            if index in taken:
                feature = final if norm else x
                picked[index] = feature.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else feature
        features = [picked[index] for index in taken]
        return features if intermediates_only else (final, features)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen stages' features do not need: later stages, the final norm, the head if asked.

        Returns:
            The stages' numbers.
        """
        taken = self._taken(indices)
        kept = max(taken) + 1
        cut = kept < len(self.layers)
        config = self.settings
        self.layers = self.layers[:kept]
        self.made_for = (self.made_for[0][:kept], self.made_for[1])
        # The final norm and the head fit the last stage alone.
        final_norm = config.final_norm and not (prune_norm or cut)
        self.settings = config.with_changes(
            depths=config.depths[:kept],
            num_heads=config.num_heads[:kept],
            window_size=config.window_size[:kept],
            pretrained_window_sizes=config.pretrained_window_sizes[:kept],
            final_norm=final_norm,
            # The blocks that are left keep their own rates, which rise to that of the last of them.
            drop_path_rate=config.drop_path_rates(kept - 1)[-1],
        )
        if not final_norm:
            self.norm = nn.Identity()
        if prune_head or cut:
            self.reset_classifier(0, "none")
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the classifier: a linear layer, or an identity when there are no classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, pool: str | None = None, *, global_pool: str | None = None) -> None:
        """Put a new classifier on the model, and another pool if one is named.

        Args:
            num_classes: outputs; 0 for none.
            pool: avg, max, avgmax or none; None keeps the present one.
            global_pool: timm's spelling of `pool`.

        Raises:
            ConfigError: no such pool, or both spellings; the model is left as it was.
        """
        if pool is not None and global_pool is not None:
            raise ConfigError("pool and global_pool are one setting, and both were given")
        pool = global_pool if pool is None else pool
        changes = {} if pool is None else {"pool": pool}
        self.settings = self.settings.with_changes(num_classes=num_classes, **changes)
        self.labels = ()
        weight = self.patch_embed.proj.weight
        self.head = self._make_head().to(weight.device, weight.dtype).train(self.training)
        init_vit(self.head)

    def set_input_size(
        self,
        img_size: int | Pair | None = None,
        patch_size: int | Pair | None = None,
        window_size: int | Sequence[int | Pair] | None = None,
        always_partition: bool | None = None,
    ) -> None:
        """Make the model one for another image size: its windows are scaled with the grid, and its tables resized.

        Args:
            img_size: (height, width) or one side, in pixels; None keeps it.
            patch_size: (height, width) or one side, in pixels; None keeps it.
            window_size: as in `SwinConfig`; None scales the windows that the model was made with.
            always_partition: as in `SwinConfig`; None keeps it.

        Raises:
            ConfigError: a size that no model can have; the model is left as it was.
        """
        sizes: dict[str, Any] = {
            "img_size": img_size,
            "patch_size": patch_size,
            "always_partition": always_partition,
        }
        sized = self.settings.with_changes(**{name: size for name, size in sizes.items() if size is not None})
        made_for = self.made_for
        if window_size is None:
            windows, old = made_for
            window_size = tuple(
                (max(1, height * sized.grids[0][0] // old[0]), max(1, width * sized.grids[0][1] // old[1]))
                for height, width in windows
            )
        else:
            window_size = per_stage("window_size", window_size, len(self.layers))
            made_for = (window_size, sized.grids[0])
        config = sized.with_changes(window_size=window_size)
        self.patch_embed.set_input_size(config.img_size, config.patch_size)
        self.settings, self.made_for = config, made_for
        for number, stage in enumerate(self.stages):
            for block in stage.blocks:
                shift = config.shift_of(number) if block.shifted else (0, 0)
                resize_attention(block.attn, config.window_of(number), shift)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, instead of keeping what it computed."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def init_weights(self, mode: str = "", *, needs_reset: bool = True) -> None:
        """Draw all weights anew; the modes are those of `vitzoo.init.init_vit`.

        Raises:
            ConfigError: no such mode.
        """
        init_vit(self, mode, needs_reset=needs_reset, num_classes=self.num_classes)

    def adapt_weights(
        self, state: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], list[Note]]:
        """Return weights of another size in this model's: tables of other windows, patches of other sizes or channels.

        Args:
            state: tensors under this model's names; what still differs afterwards is refused.
            settings: what the source says of its model; may be empty.
        """
        return resized_state(self, state, settings)

    def _embed(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and any(side % patch for side, patch in zip(x.shape[2:], self.settings.patch_size, strict=True)):
            height, width = (
                side // patch * patch for side, patch in zip(x.shape[2:], self.settings.patch_size, strict=True)
            )
            raise InputError(
                f"an image of {x.shape[2]}x{x.shape[3]} pixels does not divide into patches of "
                f"{self.settings.patch_size}; {height}x{width} would"
            )
        tokens, grid = self.patch_embed(x)
        return tokens.unflatten(1, grid)

    def _make_head(self) -> Head:
        config = self.settings
        return Head(self.num_features, config.num_classes, pool=config.pool, drop_rate=config.drop_rate)

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        depth = len(self.layers)
        if indices is None:
            return list(range(depth))
        if isinstance(indices, int):
            if not 1 <= indices <= depth:
                raise InputError(f"the last {indices} stages were asked for (possible: 1 to {depth})")
            return list(range(depth - indices, depth))
        for index in indices:
            if not -depth <= index < depth:
                raise InputError(f"stage {index} was asked for (possible: {-depth} to {depth - 1})")
        if not indices:
            raise InputError("no stage was asked for")
        return [index % depth for index in indices]
