"""A convolutional stem: a small CNN before the patches."""

from __future__ import annotations

from torch import Tensor, nn

from vitzoo.embed.patch import PatchEmbed, PatchParts
from vitzoo.errors import ConfigError


class ConvStem(PatchEmbed):
    """3x3 convolutions of stride 2 with batch norm and ReLU, then one convolution that takes the rest of the patch.

    Every convolution doubles the channels; the last takes them to `embed_dim`. At patch size 16 the default is three
    convolutions and a final one of 2x2.

    Args:
        parts: what every patch embedding is built from.
        depth: number of stride-2 convolutions; None: as many as halve the patch size to 2 at least, 3 at most.

    Raises:
        ConfigError: the patch size cannot be halved `depth` times.

    Source: Early Convolutions Help Transformers See Better, arXiv 2106.14881.
    """

    def __init__(self, parts: PatchParts, *, depth: int | None = None) -> None:
        super().__init__(parts)
        halvings = min(_halvings(side) for side in self.patch_size)
        if depth is None:
            depth = max(1, min(3, halvings - 1))
        if not 1 <= depth <= halvings:
            raise ConfigError(
                f"patch_embed='conv_stem' cannot halve patch_size={self.patch_size} {depth} times "
                f"(possible: 1 to {halvings})"
                if halvings
                else f"patch_embed='conv_stem' needs an even patch size; got patch_size={self.patch_size}"
            )
        layers: list[nn.Module] = []
        channels = self.in_chans
        for step in range(depth):
            width = max(8, self.embed_dim // 2 ** (depth - step))
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        rest = (self.patch_size[0] >> depth, self.patch_size[1] >> depth)
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(channels, self.embed_dim, rest, rest, bias=parts.bias)

    def project(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, embed_dim) of an image (B, in_chans, H, W) of whole patches."""
        return self.proj(self.stem(image)).flatten(2).transpose(1, 2)


def _halvings(side: int) -> int:
    return (side & -side).bit_length() - 1
