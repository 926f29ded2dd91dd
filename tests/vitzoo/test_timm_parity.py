"""timm's models and vitzoo's are the same functions of the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from timm_twins import ROWS, TWINS, error, random_weights, timm_model

import vitzoo
from vitzoo.weights.formats.timm import from_timm, to_timm

# Both in float64. timm computes rope's sines and resizes positions in float32, whatever the model's dtype.
EXACT, FLOAT32_ROPE, FLOAT32_RESIZE = 1e-10, 1e-6, 1e-5

# From these on, two blocks stand for all of them.
DEEP = 100_000_000

THROUGH_A_FILE = """
    test_vit test_vit2 test_vit3 test_vit4
    vit_tiny_patch16_224 vit_small_patch16_224 vit_small_patch32_384 vit_base_patch16_224 vit_large_patch16_384
    vit_huge_patch14_224 vit_giant_patch14_224
    vit_medium_patch16_gap_256 vit_base_patch16_rpn_224 vit_large_patch14_xp_224 vit_small_patch16_36x1_224
    vit_intern300m_patch14_448
    deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit_small_distilled_patch16_224
    deit3_small_patch16_224 deit3_medium_patch16_224
    vit_large_patch14_dinov2 vit_small_patch14_reg4_dinov2
    vit_tiny_patch16_dinov3_qkvb vit_small_patch16_dinov3 vit_small_plus_patch16_dinov3
    vit_small_plus_patch16_dinov3_qkvb vit_large_patch16_dinov3 vit_huge_plus_patch16_dinov3
    vit_xsmall_patch16_clip_224 vit_medium_patch32_clip_224 vit_betwixt_patch32_clip_224
    vit_base_patch32_clip_quickgelu_224 vit_base_patch16_plus_clip_240 vit_large_patch14_clip_336
    vit_huge_patch14_clip_quickgelu_224
    vit_base_patch32_siglip_256 vit_large_patch16_siglip_256 vit_large_patch16_siglip_gap_256
    vit_so400m_patch14_siglip_384 vit_so400m_patch16_siglip_gap_256
    vit_wee_patch16_reg1_gap_256 vit_pwee_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256
    vit_medium_patch16_reg4_gap_256 vit_so150m_patch16_reg4_map_256 vit_so150m2_patch16_reg1_gap_256
    vit_small_patch16_rope_224 vit_small_patch16_rope_ape_224 vit_small_patch16_rope_mixed_224
    vit_small_patch16_rope_mixed_ape_224 vit_medium_patch16_rope_reg1_gap_256 vit_betwixt_patch16_rope_reg4_gap_256
    flexivit_small eva_large_patch14_196 eva_giant_patch14_224 eva02_tiny_patch14_336 eva02_small_patch14_224
    eva02_large_patch14_224 eva02_large_patch14_clip_224
    beit3_large_patch16_224 aimv2_large_patch14_224 vit_large_patch14_reg1_tipsv2
    vit_pe_core_tiny_patch16_384 vit_pe_core_large_patch14_336 vit_pe_lang_large_patch14_448
    vit_pe_spatial_tiny_patch16_512 vit_large_patch16_radio_v3 vit_large_patch16_lingbot
""".split()  # noqa: SIM905 - as a list it would be a line a name


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Yield a path of a file that is not left behind: together they would fill a disk."""
    file = tmp_path / "weights.safetensors"
    yield file
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("name", TWINS)
@torch.inference_mode()
def test_one_block_of_every_architecture_takes_timms_weights_and_gives_its_numbers(name: str) -> None:
    rows, columns = 3, 4
    height, width = rows * ROWS[name].config.patch_size[0], columns * ROWS[name].config.patch_size[1]
    weights = random_weights(name, depth=1, img_size=(height, width))
    theirs = timm_model(name, weights, depth=1, img_size=(height, width))
    ours = vitzoo.create(name, depth=1, img_size=(height, width), device="meta", dtype=torch.float64).eval()
    is_eva = isinstance(theirs, Eva)

    # VisionTransformer's names are vitzoo's own; Eva's are not, but they lead there and back.
    state = {key: value.double() for key, value in (from_timm(weights) if is_eva else weights).items()}
    ours.load_state_dict(state, strict=True, assign=True)
    theirs.load_state_dict(to_timm(ours.state_dict(), eva=is_eva), strict=True)

    image = torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    our_features, their_features = ours.forward_features(image), theirs.forward_features(image)
    limit = EXACT if ours.rope is None else FLOAT32_ROPE
    assert error(our_features, their_features) < limit
    assert error(ours.forward_head(our_features), theirs.forward_head(their_features)) < limit


@pytest.mark.parametrize("name", THROUGH_A_FILE)
@torch.inference_mode()
def test_weights_from_a_file_give_timms_numbers_at_the_native_and_at_another_size(name: str, path: Path) -> None:
    config = ROWS[name].config
    cut = {"depth": 2} if ROWS[name].params >= DEEP else {}
    weights = random_weights(name, **cut)
    save_file(weights, path)
    theirs = timm_model(name, weights, **cut)
    ours = vitzoo.create(name, weights=str(path), dtype=torch.float64, **cut).eval()

    rows, columns = ours.patch_embed.grid_size
    patch_h, patch_w = config.patch_size
    other = ((rows + 1) * patch_h, max(2, columns // 2) * patch_w)
    exact = EXACT if ours.rope is None else FLOAT32_ROPE
    for size, limit in ((config.img_size, exact), (other, exact if ours.pos_embed is None else FLOAT32_RESIZE)):
        image = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        theirs.set_input_size(img_size=size)
        our_features, their_features = ours.forward_features(image), theirs.forward_features(image)
        assert error(our_features, their_features) < limit, f"features at {size}"
        assert error(ours.forward_head(our_features), theirs.forward_head(their_features)) < limit, f"logits at {size}"

    if isinstance(theirs, Eva):
        vitzoo.save(ours, path, format="timm")
        saved = load_file(path)
        assert saved.keys() == weights.keys()
        assert all(torch.equal(saved[key], value.double()) for key, value in weights.items())
