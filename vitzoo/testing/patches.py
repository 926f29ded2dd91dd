"""Checks of patch embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitzoo.embed.patch import PatchEmbed
from vitzoo.errors import ConfigError, InputError
from vitzoo.registry import Entry
from vitzoo.testing.check import Check
from vitzoo.testing.parts import Kind, Part, part_checks
from vitzoo.testing.tiny import TINY, images

PATCH_EMBED = Kind(find=lambda model: model.patch_embed, call=lambda patch, x: patch(x)[0], inputs=images)


def patch_embed_checks(entry: Entry) -> list[Check]:
    """Return the checks of a patch embedding."""
    own = {"protocol": check_protocol, "shape": check_shape, "order": check_order}
    return part_checks(entry, PATCH_EMBED, {**own, "resize": check_resize, "channels": check_channels})


def check_protocol(part: Part) -> None:
    """It is a PatchEmbed, whose forward checks the image and calls `project`."""
    module = part.module()
    assert isinstance(module, PatchEmbed), (
        f"{type(module).__name__} is no vitzoo.embed.patch.PatchEmbed, which has the grid, the checks and the padding"
    )


def check_shape(part: Part) -> None:
    """As many tokens as the grid has patches, for square images and others."""
    module: Any = part.module()
    for size in ((32, 48), (48, 32), (64, 64), (16, 80)):
        tokens, grid = module(images(2, 3, *size))
        expected = (2, grid[0] * grid[1], TINY["embed_dim"])
        assert tuple(grid) == module.grid_of(*size), f"the grid of {size[0]}x{size[1]} is {grid}, not what grid_of says"
        assert tokens.shape == expected, (
            f"an image of {size[0]}x{size[1]} has a grid of {grid[0]} rows and {grid[1]} columns and gives tokens "
            f"{tuple(tokens.shape)}, expected {expected}"
        )
    step = module.feat_ratio()
    assert module.num_patches == module.grid_size[0] * module.grid_size[1]
    assert all(side > 0 for side in step), f"feat_ratio() gives {step}, expected (height, width) of a step in pixels"


def check_order(part: Part) -> None:
    """Tokens lie row by row: the patch of row r and column c is token r * columns + c."""
    module: Any = part.module().double()
    image = images(1, 3, *TINY["img_size"]).double()
    with torch.no_grad():
        tokens, (rows, columns) = module(image)
        height, width = TINY["img_size"][0] / rows, TINY["img_size"][1] / columns
        for row, column in ((0, columns - 1), (rows - 1, 0), (rows // 2, columns // 2 + 1)):
            other = image.clone()
            top, left = round(row * height), round(column * width)
            # Not by a constant, which a norm of the pixels would take away again.
            other[..., top : top + round(height), left : left + round(width)] *= -2
            found = _most_changed(module(other)[0], tokens)
            swapped = column * rows + row
            hint = ": rows and columns are transposed" if found == swapped else ""
            assert found == row * columns + column, (
                f"a change of the patch in row {row} and column {column} of {rows} x {columns} shows most in token "
                f"{found}, expected token row * columns + column = {row * columns + column}{hint}"
            )


def check_resize(part: Part) -> None:
    """`set_input_size` changes the grid, or refuses and changes nothing."""
    module: Any = part.module()
    module.set_input_size((64, 32))
    assert module.img_size == (64, 32), f"after set_input_size((64, 32)) img_size is {module.img_size}"
    assert module.grid_size == module.grid_of(64, 32), f"after set_input_size((64, 32)) grid_size is {module.grid_size}"
    try:
        module.set_input_size((64, 96), (16, 16))
    except (ConfigError, InputError):
        assert module.patch_size == (8, 8), "it refuses a patch size of 16 and yet is changed"
        return
    tokens, grid = module(images(1, 3, 64, 96))
    assert tokens.shape[1] == grid[0] * grid[1], (
        f"with patches of 16 the grid is {grid} and there are {tokens.shape[1]} tokens"
    )


def check_channels(part: Part) -> None:
    """Images of another number of channels."""
    module: Any = part.module(in_chans=4)
    assert module(images(1, 4, 32, 48))[0].shape[-1] == TINY["embed_dim"]
    try:
        module(images(1, 3, 32, 48))
    except InputError:
        return
    raise AssertionError("made for 4 channels, it takes an image of 3: forward must refuse it, as PatchEmbed's does")


def _most_changed(after: Tensor, before: Tensor) -> int:
    return int((after - before).abs().sum(-1)[0].argmax())
