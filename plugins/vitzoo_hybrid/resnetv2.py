"""A ResNetV2 of BiT's making as the beginning of a ViT: its features, not the pixels, are cut into patches.

Names are those of timm's `HybridEmbed` around a `ResNetV2`, so that its weights load as they are.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitzoo.embed.patch import PatchEmbed, PatchParts
from vitzoo.errors import ConfigError

GROUPS = 32


class StdConv(nn.Conv2d):
    """A convolution whose kernels are standardised, each to mean 0 and variance 1, before they are used.

    Images are padded so that a stride divides them ("same"): the odd pixel goes to the right and below.

    Args:
        in_channels: channels of the image.
        out_channels: number of kernels.
        kernel_size: side of a kernel in pixels.
        stride: pixels from one application to the next.

    Source: weight standardisation, arXiv 1903.10520; BiT, arXiv 1912.11370, section 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=False)
        # Of an image that the stride divides, so much is missing; a patch embedding takes no others.
        missing = max(kernel_size - stride, 0)
        self.missing = (missing // 2, missing - missing // 2)

    def reset_parameters(self) -> None:
        """Draw the kernels as ResNets do; their scale is lost when they are standardised."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, kernels, H / stride, W / stride)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), unbiased=False, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-8)
        return F.conv2d(F.pad(x, self.missing * 2), weight, stride=self.stride)


class SamePool(nn.MaxPool2d):
    """The largest of 3 x 3 pixels at every other pixel; what lies outside the image never counts."""

    def __init__(self) -> None:
        super().__init__(kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return super().forward(F.pad(x, (0, 1, 0, 1), value=-torch.inf))


class NormAct(nn.GroupNorm):
    """A group norm and a ReLU.

    Args:
        channels: channels of the image.
        act: whether there is a ReLU.
    """

    def __init__(self, channels: int, *, act: bool = True) -> None:
        super().__init__(GROUPS, channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = super().forward(x)
        return F.relu(x) if self.act else x


class Bottleneck(nn.Module):
    """relu(shortcut(x) + conv(conv(conv(x)))), a norm after each convolution.

    Args:
        in_channels: channels of its input.
        out_channels: channels of its output; a quarter of them in between.
        stride: pixels from one output to the next.
        first: whether it begins a stage, so that its shortcut has a convolution too.

    Source: arXiv 1512.03385, figure 5, the stride in the middle convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, first: bool) -> None:
        super().__init__()
        inner = out_channels // 4
        self.downsample: nn.Module | None = None
        if first:
            conv, norm = StdConv(in_channels, out_channels, 1, stride=stride), NormAct(out_channels, act=False)
            self.downsample = nn.Sequential(OrderedDict(conv=conv, norm=norm))
        self.conv1, self.norm1 = StdConv(in_channels, inner, 1), NormAct(inner)
        self.conv2, self.norm2 = StdConv(inner, inner, 3, stride=stride), NormAct(inner)
        self.conv3, self.norm3 = StdConv(inner, out_channels, 1), NormAct(out_channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.norm1(self.conv1(x))
        x = self.norm2(self.conv2(x))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


class Stage(nn.Module):
    """Bottlenecks at one resolution; the first of them has the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, depth: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Bottleneck(out_channels if i else in_channels, out_channels, stride=1 if i else stride, first=i == 0)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        return self.blocks(x)


class ResNetV2Patches(PatchEmbed):
    """Run a ResNet over the image and cut its features into patches.

    Args:
        parts: what every patch embedding is built from. `patch_size` counts pixels: it is the ResNet's stride (4 with
            one stage or none, twice that with each further) times the side of a patch of features.
        layers: blocks of each stage; none for the stem alone.
        channels: channels of each stage.
        stem_channels: channels of the stem.

    Raises:
        ConfigError: the stride does not divide the patch size, a stage has no channels, or channels that make no
            groups of the norm.

    Source: ViT, arXiv 2010.11929, section 3.1 (hybrid); the ResNet is BiT's, arXiv 1912.11370.
    """

    proj: nn.Conv2d

    def __init__(
        self,
        parts: PatchParts,
        *,
        layers: tuple[int, ...] = (3, 4, 9),
        channels: tuple[int, ...] = (256, 512, 1024, 2048),
        stem_channels: int = 64,
    ) -> None:
        super().__init__(parts)
        stride = 4 * 2 ** max(len(layers) - 1, 0)
        if any(side % stride for side in parts.patch_size):
            raise ConfigError(
                f"patch_size={parts.patch_size} is not a multiple of {stride}, the stride of a ResNet with "
                f"layers={layers}: choose one that is, or fewer stages"
            )
        if len(layers) > len(channels) or any(depth < 1 for depth in layers):
            raise ConfigError(f"layers={layers} needs at least one block a stage, and has channels={channels}")
        widths = (stem_channels, *channels[: len(layers)])
        # A block's inner convolutions have a quarter of its channels.
        if stem_channels % GROUPS or any(width % (4 * GROUPS) for width in widths[1:]):
            raise ConfigError(
                f"stem_channels={stem_channels} and channels={channels} (possible: multiples of {GROUPS} and of "
                f"{4 * GROUPS}): norms have {GROUPS} groups"
            )
        stem = OrderedDict[str, nn.Module](
            conv=StdConv(parts.in_chans, stem_channels, 7, stride=2), norm=NormAct(stem_channels), pool=SamePool()
        )
        stages = [Stage(widths[i], widths[i + 1], depth=depth, stride=2 if i else 1) for i, depth in enumerate(layers)]
        self.backbone = nn.Sequential(stem)
        if stages:
            self.backbone = nn.Sequential(OrderedDict(stem=self.backbone, stages=nn.Sequential(*stages)))
        side = (parts.patch_size[0] // stride, parts.patch_size[1] // stride)
        self.proj = nn.Conv2d(widths[-1], parts.embed_dim, kernel_size=side, stride=side, bias=parts.bias)

    def project(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, embed_dim) of an image (B, in_chans, H, W) of whole patches."""
        return self.proj(self.backbone(image)).flatten(2).transpose(1, 2)
