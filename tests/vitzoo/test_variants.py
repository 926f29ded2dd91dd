"""The tables of variants: every row builds, has the parameters it states, and says where it comes from."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
import timm
import torch
from timm_twins import ROWS, TWINS, timm_on_meta
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

import vitzoo
from vitzoo.catalog import find_model
from vitzoo.config import ViTConfig
from vitzoo.embed.position import LearnedPositions
from vitzoo.errors import ConfigError
from vitzoo.variants import FAMILIES

TABLES = {family: import_module(f"vitzoo.variants.{family}") for family in FAMILIES}

# timm does not say it of these, but OpenCLIP builds them with quick GELU.
QUICK_BESIDE_TIMM = {"vit_base_patch16_clip_224.dfn2b"}


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_builds_and_has_the_parameters_it_states_and_timms(name: str) -> None:
    assert count(vitzoo.create(name, device="meta")) == ROWS[name].params
    if name in TWINS:
        assert count(timm_on_meta(name)) == ROWS[name].params


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_and_its_tags_say_where_they_come_from(family: str) -> None:
    for row in TABLES[family].VARIANTS:
        assert len(row.paper) > 5, row.name
        assert re.fullmatch(r"\d{4}\.\d{5}", row.arxiv), row.name
        assert row.license, row.name
        for name, tag in row.tags.items():
            assert tag.license, f"{row.name}.{name}"
            assert re.fullmatch(r"[\w-]+/[\w.-]+|https://[\w./-]+", tag.source), f"{row.name}.{name}: {tag.source}"


def test_names_are_unique_and_listed() -> None:
    names = [row.name for table in TABLES.values() for row in table.VARIANTS]
    assert len(names) == len(set(names))
    assert set(names) <= set(vitzoo.list_models(plugin="vitzoo"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_alias_leads_to_a_row_of_its_family(family: str) -> None:
    names = {row.name for row in TABLES[family].VARIANTS}
    for alias, name in TABLES[family].ALIASES.items():
        assert alias not in ROWS
        assert find_model(alias).name == name
        assert name in names


def images(of: Any) -> tuple[Any, ...]:
    """Return how images are prepared, from vitzoo's Preprocess or from timm's PretrainedCfg."""
    return of.mean, of.std, of.crop_pct, of.interpolation, of.crop_mode


def config_of(name: str) -> ViTConfig:
    """Return the config of a variant, or of one of its tags."""
    config = find_model(name).config
    assert config is not None
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tag_has_a_config_and_is_what_timm_says_it_is(family: str) -> None:
    for row in TABLES[family].VARIANTS:
        public = [tag.partition(".")[2] for tag in timm.list_pretrained(f"{row.name}.*")]
        assert row.name not in TWINS or set(row.tags) == set(public), row.name
        for name, tag in row.tags.items():
            full = f"{row.name}.{name}"
            assert config_of(full) == row.config.with_changes(**tag.changes)
            if row.name in TWINS:
                theirs = timm.get_pretrained_cfg(full)
                assert images(tag.preprocess) == images(theirs), full
                assert config_of(full).num_classes == theirs.num_classes, full
                assert tag.license == (theirs.license or "not stated"), full
                assert tag.source == (theirs.hf_hub_id or theirs.url), full


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_prepares_images_as_timm_does_by_default(family: str) -> None:
    for row in TABLES[family].VARIANTS:
        if row.name in TWINS:
            default = timm.get_pretrained_cfg(row.name)
            assert images(row.preprocess) == images(default), row.name
            assert not row.tags or next(iter(row.tags)) == default.tag, row.name


def test_the_tags_that_timm_marks_have_quick_gelu_and_no_others_of_clip() -> None:
    for row in TABLES["clip"].VARIANTS:
        for tag in row.tags:
            full = f"{row.name}.{tag}"
            marked = bool(timm.get_pretrained_cfg(full).notes) or full in QUICK_BESIDE_TIMM
            assert (config_of(full).mlp.name == "quick_gelu") == marked, full


JAX_RESIZE = {"interpolation": "bilinear", "antialias": False, "align_corners": True}


@pytest.mark.parametrize(
    ("name", "mlp", "resize"),
    [
        ("vit_base_patch16_224", "gelu", {}),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", "gelu_tanh", JAX_RESIZE),
        ("vit_base_patch16_224.orig_in21k", "gelu_tanh", JAX_RESIZE),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", "gelu", {}),
        ("vit_base_patch16_224.mae", "gelu", {"antialias": False}),
        ("vit_base_patch16_siglip_224", "gelu", {}),
        ("vit_base_patch16_siglip_224.v2_webli", "gelu_tanh", JAX_RESIZE),
        ("vit_so400m_patch14_siglip_378.webli_ft_in1k", "gelu", {}),
        ("vit_small_patch14_dinov2.lvd142m", "gelu", {"antialias": False}),
        ("vit_small_patch14_reg4_dinov2.lvd142m", "gelu", {}),
        ("deit_small_patch16_224.fb_in1k", "gelu", {"antialias": False}),
        ("flexivit_small.1200ep_in1k", "gelu_tanh", {"interpolation": "bilinear", "antialias": False}),
        ("vit_large_patch14_clip_336.openai", "quick_gelu", {}),
        ("vit_large_patch14_clip_336.openai_ft_in12k_in1k", "gelu", {}),
    ],
)
def test_a_tag_has_the_switches_its_weights_were_trained_with(name: str, mlp: str, resize: dict[str, Any]) -> None:
    assert config_of(name).mlp.name == mlp
    assert config_of(name).pos_embed.args == resize


def test_dinov3s_weights_are_read_at_the_class_token() -> None:
    bare, tagged = (config_of(f"vit_small_patch16_dinov3{tag}") for tag in ("", ".lvd1689m"))
    assert (bare.pool.name, tagged.pool.name) == ("avg", "token")
    assert bare.uses_fc_norm is tagged.uses_fc_norm is False


def test_the_cifar_model_is_torchs_encoder_on_patches() -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, batch_first=True), 4, nn.LayerNorm(128))
    tokens, patches, head = 65 * 128 + 128, nn.Conv2d(3, 128, 4, 4), nn.Linear(128, 10)
    assert count(layers) + tokens + count(patches) + count(head) == ROWS["vit_cifar10_patch4_32"].params == 2_388_362


def test_siglips_384_pixels_are_27_patches_of_14_and_a_rest_that_is_not_padded_too() -> None:
    model = vitzoo.create("siglip_so400m", depth=1, device="meta")
    assert model.patch_embed.grid_size == (27, 27)
    with pytest.raises(ConfigError, match="drop_rest=True drops the pixels that dynamic_img_pad=True pads"):
        vitzoo.create("siglip_so400m", depth=1, device="meta", dynamic_img_pad=True)


@pytest.mark.parametrize("name", [row.name for row in TABLES["torchvision"].VARIANTS])
def test_torchvisions_tags_are_its_weights(name: str) -> None:
    published = {weights.name.lower(): weights.value for weights in models.get_model_weights(name)}
    assert set(ROWS[name].tags) == set(published)
    for tag, weights in published.items():
        ours, theirs = ROWS[name].tags[tag], weights.transforms()
        size, resized = theirs.crop_size[0], theirs.resize_size[0]
        assert ours.source == weights.url
        assert config_of(f"{name}.{tag}").img_size == (size, size)
        assert ours.preprocess.crop_pct == size / resized
        assert ours.preprocess.interpolation == theirs.interpolation.value
        assert (list(ours.preprocess.mean), list(ours.preprocess.std)) == (theirs.mean, theirs.std)
        assert count(vitzoo.create(f"{name}.{tag}", device="meta")) == weights.meta["num_params"]


def test_torchvisions_variants_resize_positions_as_it_does() -> None:
    table = torch.randn(1, 1 + 14 * 14, 8)
    state = {"encoder.pos_embedding": table}
    theirs = interpolate_embeddings(384, 16, state)["encoder.pos_embedding"]
    positions = LearnedPositions(embed_dim=8, **ROWS["vit_b_16"].config.pos_embed.args)
    torch.testing.assert_close(positions.resize(table, (14, 14), (24, 24)), theirs)
