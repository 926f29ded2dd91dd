"""Checks of position embeddings and ropes: shapes, and that rows and columns stay what they are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vitzoo.embed.position import Positions
from vitzoo.embed.rope import Rope
from vitzoo.registry import Entry
from vitzoo.testing.check import Check
from vitzoo.testing.parts import Kind, Part, part_checks, tokens
from vitzoo.testing.tiny import GRID, NUM_PATCHES, TINY

PREFIX = 3
DIM = TINY["embed_dim"]
# Neither is a multiple of the other, so that a transposed grid puts neighbours far apart.
UNEVEN = (5, 11)
LARGER = (6, 10)


def patches(grid: tuple[int, int] = GRID) -> Tensor:
    """Return random patch tokens (B, N, C) of a grid."""
    return torch.randn(2, grid[0] * grid[1], DIM)


def table_of(position: Any, num_rows: int) -> Tensor | None:
    """Return a table of the shape that it asks for, without a pattern in rows or columns, or None."""
    shape = position.table_shape(num_rows)
    return None if shape is None else torch.arange(math.prod(shape)).mul(1.7).sin().reshape(shape)


def positioned(position: Any, x: Tensor) -> Tensor:
    """Return patches with their positions added."""
    table = table_of(position, PREFIX + NUM_PATCHES)
    _, added = position(x, None if table is None else table.to(x), GRID, GRID)
    return x if added is None else x + added


def angles_of(rope: Any, x: Tensor) -> Tensor:
    """Return the sines of every block (depth, P + N, 1 or H, D)."""
    return torch.stack([rotation.sin for rotation in rope(x, GRID, PREFIX)])


POS_EMBED = Kind(find=lambda model: model.position, call=positioned, inputs=patches)
ROPE = Kind(
    find=lambda model: model.rope,
    call=angles_of,
    inputs=tokens,
    out_dtype=lambda dtype: torch.promote_types(dtype, torch.float32),
    per_image=False,
)


def pos_embed_checks(entry: Entry) -> list[Check]:
    """Return the checks of a position embedding."""
    own = {"protocol": check_positions, "shape": check_shape, "order": check_order}
    return part_checks(entry, POS_EMBED, {**own, "resize": check_resize, "prefix": check_prefix})


def rope_checks(entry: Entry) -> list[Check]:
    """Return the checks of a rope."""
    own = {"protocol": check_rope, "angles": check_angles, "rotations": check_rotations, "order": check_rope_order}
    return part_checks(entry, ROPE, own)


def check_positions(part: Part) -> None:
    """It is a Positions."""
    module = part.module()
    assert isinstance(module, Positions), f"{type(module).__name__} is no vitzoo.embed.position.Positions"


def check_shape(part: Part) -> None:
    """(1, P, C) or None for the prefix and (1, N, C) or None for the patches, on its own grid and others."""
    position: Any = part.module()
    table = table_of(position, PREFIX + NUM_PATCHES)
    for grid in (GRID, LARGER, (6, 4), (3, 3)):
        prefix, added = position(patches(grid), table, GRID, grid)
        for name, value, expected in (
            ("prefix tokens", prefix, (1, PREFIX, DIM)),
            ("patches", added, (1, grid[0] * grid[1], DIM)),
        ):
            assert value is None or value.shape == expected, (
                f"for a grid of {grid[0]} rows and {grid[1]} columns the positions of the {name} have shape "
                f"{tuple(value.shape)}, expected {expected}"
            )


def check_order(part: Part) -> None:
    """Positions lie row by row: that of row r and column c is row r * columns + c, on every grid."""
    position: Any = part.module().double()
    if position.table_shape(PREFIX + NUM_PATCHES) is not None:
        for row, column in ((0, 5), (3, 0), (1, 4), (2, 1)):
            for grid in (GRID, LARGER):
                moved = _moved_by_row(position, row, column, grid)
                _assert_place(moved, row, column, grid, "a change of the table's row of")
        return
    _, added = position(patches(UNEVEN).double(), None, UNEVEN, UNEVEN)
    if added is not None:
        _assert_neighbours_near(added[0], UNEVEN)


def check_resize(part: Part) -> None:
    """`resize` gives the table of another grid, its prefix rows unchanged, rows and columns in their places."""
    position: Any = part.module().double()
    table = table_of(position, PREFIX + NUM_PATCHES)
    if table is None:
        return
    table = table.double()
    resized = position.resize(table, GRID, LARGER)
    expected = (1, PREFIX + LARGER[0] * LARGER[1], DIM)
    assert resized.shape == expected, (
        f"resized to {LARGER} the table has shape {tuple(resized.shape)}, expected {expected}"
    )
    assert torch.equal(resized[:, :PREFIX], table[:, :PREFIX]), "resizing changes the rows of the prefix tokens"
    for row, column in ((0, 5), (3, 0), (1, 4)):
        other = table.clone()
        other[:, PREFIX + row * GRID[1] + column] += 3
        moved = (position.resize(other, GRID, LARGER) - resized)[0, PREFIX:].abs().sum(-1)
        _assert_place(moved, row, column, LARGER, "resized, a change of the table's row of")


def check_prefix(part: Part) -> None:
    """What is added to prefix tokens does not depend on the image's size."""
    position: Any = part.module()
    table = table_of(position, PREFIX + NUM_PATCHES)
    own, other = (position(patches(grid), table, GRID, grid)[0] for grid in (GRID, LARGER))
    same = own is other is None or (own is not None and other is not None and torch.equal(own, other))
    assert same, "the positions of the prefix tokens (class, registers) change with the size of the image"


def check_rope(part: Part) -> None:
    """It is a Rope."""
    module = part.module()
    assert isinstance(module, Rope), f"{type(module).__name__} is no vitzoo.embed.rope.Rope"


def check_angles(part: Part) -> None:
    """Angles (1 or depth, N, 1 or H, D / 2) in the dtype that was asked for."""
    rope: Any = part.module()
    for dtype in (torch.float32, torch.float64):
        for rows, columns in (GRID, (6, 4), UNEVEN):
            angles = rope.angles((rows, columns), device=torch.device("cpu"), dtype=dtype)
            possible = [(blocks, rows * columns, heads, 8) for blocks in (1, TINY["depth"]) for heads in (1, 2)]
            assert tuple(angles.shape) in possible, (
                f"for {rows} rows and {columns} columns the angles have shape {tuple(angles.shape)}; possible for 2 "
                f"blocks of 2 heads of width 16: {', '.join(map(str, possible))}"
            )
            assert angles.dtype == dtype, f"asked for {dtype}, the angles are {angles.dtype}"


def check_rotations(part: Part) -> None:
    """A rotation for each block, none of which turns a prefix token."""
    rope: Any = part.module()
    rotations = rope(tokens(), GRID, PREFIX)
    assert len(rotations) == TINY["depth"], f"there are {len(rotations)} rotations for {TINY['depth']} blocks"
    for rotation in rotations:
        shapes = {tuple(rotation.sin.shape), tuple(rotation.cos.shape)}
        possible = {(PREFIX + NUM_PATCHES, heads, 16) for heads in (1, 2)}
        assert shapes <= possible, f"sin and cos have shapes {shapes}, expected (P + N, 1 or H, D), one of {possible}"
        still = rotation.sin[:PREFIX].eq(0).all() and rotation.cos[:PREFIX].eq(1).all()
        assert still, "prefix tokens (class, registers) are rotated; their angle is 0"
        assert rotation.sin[PREFIX:].any(), "no patch is rotated"


def check_rope_order(part: Part) -> None:
    """Angles lie row by row."""
    rope: Any = part.module()
    angles = rope.angles(UNEVEN, device=torch.device("cpu"), dtype=torch.float64).detach()
    turns = torch.cat([angles.cos(), angles.sin()], dim=-1).transpose(0, 1).flatten(1)  # (N, features)
    _assert_neighbours_near(turns, UNEVEN)


def _moved_by_row(position: Any, row: int, column: int, grid: tuple[int, int]) -> Tensor:
    """Return how much each patch's position (N,) changes with one row of the table."""
    table = table_of(position, PREFIX + NUM_PATCHES)
    assert table is not None
    table, x = table.double(), patches(grid).double()
    other = table.clone()
    other[:, PREFIX + row * GRID[1] + column] += 3
    before, after = (position(x, rows, GRID, grid)[1] for rows in (table, other))
    assert before is not None, "it asks for a table, and adds nothing to the patches"
    return (after - before)[0].abs().sum(-1)


def _assert_place(moved: Tensor, row: int, column: int, grid: tuple[int, int], what: str) -> None:
    """Assert that the token that changes most lies where a row of the table belongs on a grid."""
    found = int(moved.argmax())
    place = (found // grid[1], found % grid[1])
    # The centre of a table's row, on the other grid; the token whose cell holds it, or a neighbour of it.
    centre = [(at + 0.5) * new / old - 0.5 for at, new, old in zip((row, column), grid, GRID, strict=True)]
    near = all(abs(at - to) <= 1 for at, to in zip(place, centre, strict=True))
    if grid == GRID:
        near = place == (row, column)
    assert near, (
        f"{what} row {row} and column {column} of {GRID[0]} x {GRID[1]} shows most in row {place[0]} and column "
        f"{place[1]} of {grid[0]} x {grid[1]}: rows (height) and columns (width) are mixed up; tokens lie row by row"
    )


def _assert_neighbours_near(features: Tensor, grid: tuple[int, int]) -> None:
    """Assert that neighbours in the grid are nearer than those that would be neighbours if it were transposed."""
    rows, columns = grid
    index = torch.arange(rows * columns)
    by_row, by_column = index.reshape(rows, columns), index.reshape(columns, rows).T

    def distance(places: Tensor) -> float:
        pairs = [(places[:, 1:], places[:, :-1]), (places[1:], places[:-1])]
        return sum(float((features[a.flatten()] - features[b.flatten()]).norm(dim=-1).mean()) for a, b in pairs)

    right, swapped = distance(by_row), distance(by_column)
    assert right <= swapped, (
        f"on a grid of {rows} rows and {columns} columns the positions of neighbours are {right:.3f} apart, and "
        f"{swapped:.3f} if the grid is read column by column: rows (height) and columns (width) are mixed up; "
        "tokens lie row by row"
    )
