"""The pre-norm block with token merging between attention and MLP."""

from __future__ import annotations

from torch import Tensor, nn

from vitzoo.block import BlockParts
from vitzoo.errors import ConfigError
from vitzoo_tome.merge import match


class MergingBlock(nn.Module):
    """x + attn(norm(x)), then r pairs of like tokens are merged, then x + mlp(norm(x)).

    Tokens are alike when their keys are, averaged over the heads. A token that is made of s tokens of the image counts
    s times as a key: log(s) is added to its scores. The parameters are those of vitzoo's `pre_norm`, so checkpoints
    of plain ViTs load unchanged.

    Args:
        parts: what every block is built from.
        r: tokens that each block merges away; fewer when less than 2r patches are left.

    Raises:
        ConfigError: r is no whole number, or negative.

    Source: ToMe, arXiv 2210.09461.
    """

    merges_tokens = True

    def __init__(self, parts: BlockParts, *, r: int) -> None:
        super().__init__()
        if not isinstance(r, int) or isinstance(r, bool) or r < 0:
            raise ConfigError(f"r={r!r} tokens cannot be merged in a block (possible: 0, 1, 2, ...)")
        self.r = r
        self.norm1 = parts.norm(parts.dim)
        self.attn = parts.make_attention()
        self.ls1 = parts.make_layer_scale()
        self.drop_path1 = parts.make_drop_path()
        self.norm2 = parts.norm(parts.dim)
        self.mlp = parts.make_mlp()
        self.ls2 = parts.make_layer_scale()
        self.drop_path2 = parts.make_drop_path()

    def forward(self, x: Tensor, sizes: Tensor | None, num_prefix_tokens: int) -> tuple[Tensor, Tensor | None]:
        """Attend, merge, and run the MLP on what is left.

        Args:
            x: (B, N, C).
            sizes: (B, N), of how many tokens of the image each is made; None: of one.
            num_prefix_tokens: tokens in front of the patches, which are never merged.

        Returns:
            (B, N', C) and sizes (B, N') with N' = N - min(r, patches // 2).
        """
        q, k, v = self.attn.project(self.norm1(x))
        # One row for all queries and heads: a backend that takes a bias adds it on the fly.
        bias = None if sizes is None else sizes.log().to(q.dtype)[:, None, None, :]
        x = x + self.drop_path1(self.ls1(self.attn.mix(q, k, v, bias=bias)))
        matching = match(k.mean(dim=2), self.r, num_prefix_tokens)
        if matching is not None:
            x, sizes = matching.merge(x, sizes)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))), sizes
