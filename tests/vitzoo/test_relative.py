"""Relative-position tables of another window: timm's numbers, both of its ways."""

from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table, resize_rel_pos_bias_table_simple

from vitzoo.embed.relative import resample_bias_table
from vitzoo.errors import InputError

# What timm's own code warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.searchsorted():UserWarning"),
]
WINDOWS = [(7, 12), (12, 7), (8, 16), (14, 24), (24, 14), (7, 8), (2, 5), (16, 3)]


def table_of(window: tuple[int, int], extra: int = 0, heads: int = 4) -> torch.Tensor:
    """Return a random table."""
    torch.manual_seed(0)
    return torch.randn((2 * window[0] - 1) * (2 * window[1] - 1) + extra, heads)


def rows_of(window: tuple[int, int], extra: int = 0) -> int:
    """Return the rows of a window's table."""
    return (2 * window[0] - 1) * (2 * window[1] - 1) + extra


@pytest.mark.parametrize(("old", "new"), WINDOWS)
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("spacing", ["even", "geometric"])
def test_square_windows_are_timms(old: int, new: int, extra: int, spacing: str) -> None:
    theirs = resize_rel_pos_bias_table_simple if spacing == "even" else resize_rel_pos_bias_table
    table, limit = table_of((old, old), extra), 1e-5
    if spacing == "even":
        # The other way timm computes in float32 whatever it is given.
        table, limit = table.double(), 1e-12
    expected = theirs(table, new_window_size=(new, new), new_bias_shape=(rows_of((new, new), extra), 4))
    actual = resample_bias_table(table, (old, old), (new, new), spacing=spacing, extra=extra)
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize(("old", "new"), [((7, 7), (6, 12)), ((6, 12), (12, 6)), ((3, 9), (9, 9)), ((1, 4), (1, 7))])
def test_windows_that_are_no_squares_are_timms(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = table_of(old)
    expected = resize_rel_pos_bias_table(table, new, (rows_of(new), 4), old_window_size=old)
    torch.testing.assert_close(resample_bias_table(table, old, new, spacing="geometric"), expected, rtol=0, atol=1e-5)
    image = table.double().T.reshape(1, 4, 2 * old[0] - 1, 2 * old[1] - 1)
    even = torch.nn.functional.interpolate(image, (2 * new[0] - 1, 2 * new[1] - 1), mode="bicubic").reshape(4, -1).T
    torch.testing.assert_close(resample_bias_table(table.double(), old, new), even, rtol=0, atol=1e-12)


def test_the_two_spacings_differ_and_the_centre_stays_the_centre() -> None:
    table = table_of((7, 7))
    even, geometric = (resample_bias_table(table, (7, 7), (12, 12), spacing=name) for name in ("even", "geometric"))
    assert (even - geometric).abs().max() > 0.1
    # No offset, and one token aside, keep their bias where the old offsets are spaced from 1 on.
    centre, row = rows_of((12, 12)) // 2, 23
    old_centre, old_row = rows_of((7, 7)) // 2, 13
    for new, old in ((0, 0), (1, 1), (-1, -1), (row, old_row), (-row - 1, -old_row - 1)):
        torch.testing.assert_close(geometric[centre + new], table[old_centre + old])


def test_a_table_of_half_precision_is_resized_in_float32_and_has_a_gradient() -> None:
    table = table_of((7, 7)).half()
    expected = resample_bias_table(table.float(), (7, 7), (9, 9), spacing="geometric").half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resample_bias_table(table, (7, 7), (9, 9), spacing="geometric"), expected)
    small = table_of((2, 3), heads=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: resample_bias_table(t, (2, 3), (4, 2)), small)
    assert torch.equal(resample_bias_table(table, (7, 7), (7, 7)), table)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spacing": "cubic"}, r"spacing='cubic' is unknown \(possible: even, geometric\)"),
        ({"extra": 3}, r"shape \(169, 4\) is none of a window \(7, 7\): it would have 13 \* 13 \+ 3 = 172 rows"),
        ({"old_window": (7, 8)}, r"is none of a window \(7, 8\): it would have 13 \* 15 \+ 0 = 195 rows"),
    ],
)
def test_a_table_of_another_window_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        resample_bias_table(table_of((7, 7)), **{"old_window": (7, 7), "new_window": (8, 8), **changes})
