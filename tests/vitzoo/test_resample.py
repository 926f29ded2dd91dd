"""Resizing by two weight matrices is torch's interpolation, with a gradient in every mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitzoo.embed.resample import check_mode, resample_patch_kernel, resample_table
from vitzoo.errors import ConfigError

GRIDS = [
    ((14, 14), (14, 14)),
    ((14, 14), (7, 20)),
    ((7, 9), (16, 5)),
    ((16, 16), (37, 37)),
    ((5, 4), (1, 1)),
    ((1, 3), (4, 2)),
]
MODES = [
    ("nearest", False, None),
    ("bilinear", False, False),
    ("bilinear", True, False),
    ("bilinear", False, True),
    ("bicubic", False, False),
    ("bicubic", True, False),
    ("bicubic", False, True),
]


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize(("mode", "antialias", "align_corners"), MODES)
def test_two_matrices_equal_interpolate(old, new, mode, antialias, align_corners) -> None:
    torch.manual_seed(0)
    table = torch.randn(1, old[0] * old[1], 8, dtype=torch.float64)
    image = table.reshape(1, *old, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=new, mode=mode, antialias=antialias, align_corners=align_corners)
    actual = resample_table(table, old, new, mode=mode, antialias=antialias, align_corners=bool(align_corners))
    torch.testing.assert_close(actual, expected.permute(0, 2, 3, 1).reshape(1, -1, 8), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "antialias"), [("bicubic", True), ("bilinear", False)])
def test_resampling_has_a_gradient(mode: str, antialias: bool) -> None:
    table = torch.randn(1, 12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: resample_table(t, (3, 4), (5, 2), mode=mode, antialias=antialias), table)


def test_the_own_grid_gives_the_own_table_back() -> None:
    table = torch.randn(1, 196, 8)
    assert torch.equal(resample_table(table, (14, 14), (14, 14)), table)


def test_a_half_precision_table_is_resized_in_float32() -> None:
    table = torch.randn(1, 196, 8).half()
    expected = resample_table(table.float(), (14, 14), (9, 9)).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resample_table(table, (14, 14), (9, 9)), expected)


def test_a_resized_patch_kernel_sees_in_a_resized_patch_what_the_old_one_saw() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    bigger = resample_patch_kernel(kernel, (16, 12))
    patch = torch.randn(10, 3, 8, 8, dtype=torch.float64)
    resized = F.interpolate(patch, size=(16, 12), mode="bicubic", antialias=True)
    torch.testing.assert_close(
        torch.einsum("bchw,ochw->bo", resized, bigger), torch.einsum("bchw,ochw->bo", patch, kernel)
    )
    torch.testing.assert_close(resample_patch_kernel(kernel, (8, 8)), kernel)


@pytest.mark.parametrize(
    ("mode", "antialias", "align_corners", "words"),
    [
        ("bicubicc", False, False, "unknown interpolation 'bicubicc'. Did you mean 'bicubic'?"),
        ("nearest", True, False, "antialias=True does not go with interpolation='nearest'"),
        ("bicubic", True, True, "antialias=True does not go with interpolation='bicubic', align_corners=True"),
    ],
)
def test_a_combination_that_torch_has_not_raises(mode, antialias, align_corners, words) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        check_mode(mode, antialias=antialias, align_corners=align_corners)
