"""Patch embeddings: images (B, C, H, W) to tokens (B, N, embed_dim)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitzoo.embed.resample import resample_patch_kernel
from vitzoo.errors import ConfigError, InputError


@dataclass(frozen=True, kw_only=True)
class PatchParts:
    """What a patch embedding is built from.

    Args:
        img_size: (height, width) in pixels that the model is made for.
        patch_size: (height, width) in pixels of one patch.
        in_chans: image channels.
        embed_dim: width of a token.
        bias: whether the projection has a bias.
        dynamic_img_size: accept any size that the patches divide, not `img_size` alone.
        dynamic_img_pad: pad images on the right and below to whole patches.
        norm: makes a norm of a given width.
    """

    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_chans: int
    embed_dim: int
    bias: bool
    dynamic_img_size: bool
    dynamic_img_pad: bool
    norm: Callable[[int], nn.Module]


class PatchEmbed(nn.Module):
    """What every patch embedding shares: the grid, the checks and the padding. Subclasses make `proj` and `project`.

    Args:
        parts: what every patch embedding is built from.
        stride: pixels from one patch to the next; the patch size when None.
        use_norm: normalise the tokens, with the model's norm.
        drop_rest: accept pixels on the right and below that make no whole patch; `project` passes over them.

    Raises:
        ConfigError: a stride that leaves gaps or stands still, or `drop_rest` together with `dynamic_img_pad`.
    """

    proj: nn.Module

    def __init__(
        self,
        parts: PatchParts,
        *,
        stride: int | tuple[int, int] | None = None,
        use_norm: bool = False,
        drop_rest: bool = False,
    ) -> None:
        super().__init__()
        if drop_rest and parts.dynamic_img_pad:
            raise ConfigError("drop_rest=True drops the pixels that dynamic_img_pad=True pads: set one of them")
        self.img_size, self.patch_size = parts.img_size, parts.patch_size
        self.in_chans, self.embed_dim = parts.in_chans, parts.embed_dim
        self.dynamic_img_size, self.dynamic_img_pad = parts.dynamic_img_size, parts.dynamic_img_pad
        self.stride = parts.patch_size if stride is None else (stride, stride) if isinstance(stride, int) else stride
        if not all(0 < step <= side for step, side in zip(self.stride, self.patch_size, strict=True)):
            raise ConfigError(
                f"stride={self.stride} is out of range (possible: 1 to patch_size={self.patch_size}, each side)"
            )
        self.norm = parts.norm(parts.embed_dim) if use_norm else None
        self.drop_rest = drop_rest
        self.grid_size = self.grid_of(*self.img_size)

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of `img_size`."""
        return self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self) -> tuple[int, int]:
        """Return how many pixels one step of the grid is, (height, width)."""
        return self.stride

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the grid (rows, columns) of an image of that size; an alias of `grid_of` that timm's users know."""
        return self.grid_of(*img_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (rows, columns) of an image of that size in pixels.

        Raises:
            InputError: the patches do not cover the image exactly, with neither padding nor `drop_rest`, or there is no
                whole patch.
        """
        return self._grid_of(height, width, self.patch_size, self.stride)

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change the image size, and the patch size with its kernel resized (FlexiViT, arXiv 2212.08013).

        Raises:
            InputError: the patches do not divide the image; nothing has changed.
            ConfigError: this patch embedding cannot change its patch size; nothing has changed.
        """
        img_size, patch_size = img_size or self.img_size, patch_size or self.patch_size
        stride = self.stride if patch_size == self.patch_size else patch_size
        grid = self._grid_of(*img_size, patch_size, stride)
        if patch_size != self.patch_size:
            self._set_patch_size(patch_size)
        self.img_size, self.grid_size = img_size, grid

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Cut the image into patches.

        Args:
            image: (B, in_chans, H, W), floating point.

        Returns:
            tokens (B, rows * columns, embed_dim) and the grid (rows, columns).

        Raises:
            InputError: the number of dimensions or channels, the dtype or the size does not fit.
        """
        self._check(image)
        height, width = image.shape[-2:]
        rows, columns = self.grid_of(height, width)
        if self.dynamic_img_pad:
            below = (rows - 1) * self.stride[0] + self.patch_size[0] - height
            right = (columns - 1) * self.stride[1] + self.patch_size[1] - width
            image = F.pad(image, (0, right, 0, below))
        tokens = self.project(image)
        return (tokens if self.norm is None else self.norm(tokens)), (rows, columns)

    def project(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, embed_dim) of an image (B, in_chans, H, W) of whole patches."""
        raise NotImplementedError

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4:
            raise InputError(f"images are (B, {self.in_chans}, H, W); got shape {tuple(image.shape)}")
        if image.shape[1] != self.in_chans:
            raise InputError(
                f"the image has {image.shape[1]} channels, this model takes {self.in_chans}; got shape "
                f"{tuple(image.shape)}, expected (B, {self.in_chans}, H, W). Create the model with "
                f"in_chans={image.shape[1]} or convert the image"
            )
        if not image.is_floating_point():
            raise InputError(f"images are floating point; got {image.dtype}: scale and normalise it first")
        if not self.dynamic_img_size and tuple(image.shape[-2:]) != self.img_size:
            raise InputError(
                f"this model takes images of {self.img_size[0]}x{self.img_size[1]} pixels, got "
                f"{image.shape[-2]}x{image.shape[-1]}; call set_input_size or create it with dynamic_img_size=True"
            )

    def _grid_of(
        self, height: int, width: int, patch_size: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[int, int]:
        return grid_of(
            height, width, patch_size=patch_size, stride=stride, pad=self.dynamic_img_pad, drop_rest=self.drop_rest
        )

    def _set_patch_size(self, patch_size: tuple[int, int]) -> None:
        raise ConfigError(f"{type(self).__name__} cannot change its patch size from {self.patch_size} to {patch_size}")


class ConvPatchEmbed(PatchEmbed):
    """One convolution with the patch as its kernel; a stride below the patch size gives overlapping patches.

    Args:
        parts: what every patch embedding is built from.
        stride: pixels from one patch to the next; the patch size when None.
        use_norm: normalise the tokens, with the model's norm.
        drop_rest: accept pixels on the right and below that make no whole patch, and pass over them, as SigLIP's
            patches of 14 pixels do in images of 384.

    Source: arXiv 2010.11929; overlapping patches: arXiv 2101.11986.
    """

    proj: nn.Conv2d

    def __init__(
        self,
        parts: PatchParts,
        *,
        stride: int | tuple[int, int] | None = None,
        use_norm: bool = False,
        drop_rest: bool = False,
    ) -> None:
        super().__init__(parts, stride=stride, use_norm=use_norm, drop_rest=drop_rest)
        self.proj = nn.Conv2d(self.in_chans, self.embed_dim, self.patch_size, self.stride, bias=parts.bias)

    def project(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, embed_dim) of an image (B, in_chans, H, W) of whole patches."""
        return self.proj(image).flatten(2).transpose(1, 2)

    def _set_patch_size(self, patch_size: tuple[int, int]) -> None:
        if self.stride != self.patch_size:
            raise ConfigError("overlapping patches cannot change their patch size: the stride would change with it")
        old = self.proj
        new = nn.Conv2d(
            self.in_chans,
            self.embed_dim,
            patch_size,
            patch_size,
            bias=old.bias is not None,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        with torch.no_grad():
            new.weight.copy_(resample_patch_kernel(old.weight, patch_size))
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
        new.requires_grad_(old.weight.requires_grad)
        self.proj, self.patch_size, self.stride = new, patch_size, patch_size


class LinearPatchEmbed(ConvPatchEmbed):
    """Patches laid out as vectors, then one matrix product: the convolution's weights, seen through a view.

    The parameters are those of `ConvPatchEmbed`, so that checkpoints are interchangeable.

    Args:
        parts: what every patch embedding is built from.
        use_norm: normalise the tokens, with the model's norm.
    """

    def __init__(self, parts: PatchParts, *, use_norm: bool = False) -> None:
        super().__init__(parts, use_norm=use_norm)

    def project(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, embed_dim) of an image (B, in_chans, H, W) of whole patches."""
        patch_h, patch_w = self.patch_size
        patches = rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_h, q=patch_w)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def grid_of(
    height: int, width: int, *, patch_size: tuple[int, int], stride: tuple[int, int], pad: bool, drop_rest: bool = False
) -> tuple[int, int]:
    """Return the grid (rows, columns) of an image of height x width pixels.

    Raises:
        InputError: the patches do not cover the image exactly, `pad` and `drop_rest` being off, or there is no whole
            patch.
    """
    (patch_h, patch_w), (stride_h, stride_w) = patch_size, stride
    if height < 1 or width < 1 or (not pad and (height < patch_h or width < patch_w)):
        raise InputError(
            f"an image of {height}x{width} pixels gives 0 tokens: it is smaller than a patch of {patch_h}x{patch_w}"
        )
    if pad:
        return -(-max(height - patch_h, 0) // stride_h) + 1, -(-max(width - patch_w, 0) // stride_w) + 1
    if not drop_rest and ((height - patch_h) % stride_h or (width - patch_w) % stride_w):
        low = (height - (height - patch_h) % stride_h, width - (width - patch_w) % stride_w)
        raise InputError(
            f"an image of {height}x{width} pixels does not divide into patches of {patch_h}x{patch_w} at stride "
            f"{stride_h}x{stride_w}; possible: {low[0]}x{low[1]} or {low[0] + stride_h}x{low[1] + stride_w}, "
            "or any size with dynamic_img_pad=True or patch_embed=('conv', {'drop_rest': True})"
        )
    return (height - patch_h) // stride_h + 1, (width - patch_w) // stride_w + 1
