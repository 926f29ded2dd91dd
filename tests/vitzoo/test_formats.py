"""Other libraries' weights, in and out: the same numbers as the library itself computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign import TWINS, Twin, image
from timm_twins import error

import vitzoo


@pytest.mark.parametrize("name", TWINS)
@torch.inference_mode()
def test_weights_in_and_out_are_the_librarys_own_model(name: str, tmp_path: Path) -> None:
    twin = TWINS[name]
    theirs = twin.model()
    (tmp_path / "theirs").mkdir()
    ours = vitzoo.load(twin.save(theirs, tmp_path / "theirs"), dtype=torch.float64, **twin.told).eval()
    assert ours.load_report.format == twin.format
    assert_same(twin, ours, theirs)

    written = tmp_path / ("ours" if twin.format in ("transformers", "open_clip") else "ours.safetensors")
    vitzoo.save(ours, written, format=twin.format)
    assert_same(twin, ours, twin.again(twin, written))


def assert_same(twin: Twin, ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Compare tokens and outputs, as far as the library gives them."""
    x = image(*ours.config.img_size)
    for key, expected in twin.outputs(theirs, x).items():
        got = ours(x) if key == "out" else ours.forward_features(x)
        assert got.shape == expected.shape, key
        assert error(got, expected) < twin.limit, key
