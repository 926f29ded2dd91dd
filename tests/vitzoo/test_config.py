"""Configs: what they refuse, and the way to JSON and back to an equal model."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vitzoo
from vitzoo.config import Component, ViTConfig
from vitzoo.errors import ConfigError
from vitzoo.weights.native import describe, parse


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=768; possible near it: num_heads in [2, 3, 4, 6]"),
        ({"embed_dims": 3}, "a ViT has no setting 'embed_dims'. Did you mean 'embed_dim'?"),
        ({"in_chans": 33}, "in_chans=33 is out of range (possible: 1 to 32)"),
        ({"in_chans": 0}, "in_chans=0 is out of range"),
        ({"depth": 0}, "depth=0 is out of range (possible: at least 1)"),
        ({"depth": 2.0}, "depth=2.0 is not an integer"),
        ({"depth": True}, "depth=True is not an integer"),
        ({"img_size": (224, 0)}, "img_size=(224, 0) is neither a positive integer nor a (height, width) of two"),
        ({"patch_size": (16, 16, 16)}, "patch_size=(16, 16, 16) is neither"),
        ({"drop_rate": float("nan")}, "drop_rate=nan is not a finite number"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio=inf is not a finite number"),
        ({"mlp_ratio": 1e-4}, "mlp_ratio=0.0001 leaves the MLP no hidden unit"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0 is out of range (possible: 0 <= drop_path_rate < 1)"),
        ({"class_token": 1}, "class_token=1 is neither True nor False"),
        ({"fc_norm": "yes"}, "fc_norm='yes' is neither True, False nor None"),
        ({"fc_norm": 1}, "fc_norm=1 is neither True, False nor None"),
        ({"qkv_bias": 1}, "qkv_bias=1 is unknown (possible: True, False, 'qv')"),
        ({"qkv_bias": "q"}, "qkv_bias='q' is unknown (possible: True, False, 'qv')"),
        ({"class_token": False}, "pool='token' needs class_token=True; without a class token use pool='avg' or 'map'"),
        ({"pool": "distilled"}, "pool='distilled' reads the class and the distillation token: set dist_token=True"),
        ({"class_token": False, "dist_token": True, "pool": "avg"}, "dist_token=True needs class_token=True"),
        ({"nothing_like_it": 1}, "a ViT has no setting 'nothing_like_it'. Possible: img_size, patch_size, in_chans,"),
        ({"global_pool": "max", "pool": "avg"}, "'global_pool' and 'pool' are one setting, and both were given"),
        ({"pool": "avg", "global_pool": "max"}, "'global_pool' and 'pool' are one setting, and both were given"),
        ({"norm": 7}, "a component is 'name', ('name', {'arg': 1}) or Component(name, args); got 7"),
        ({"norm": ("layernorm", {"eps": float("nan")})}, "layernorm.eps=nan is not a finite number"),
        ({"norm": ("layernorm", {"eps": {1, 2}})}, "a component's arguments are JSON values"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_model_can_have_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ViTConfig().with_changes(**changes)
    assert words in str(caught.value)


def test_timms_spellings_are_accepted() -> None:
    config = ViTConfig().with_changes(global_pool="", pos_embed="learn", img_size=384, patch_size=[8, 16])
    assert (config.pool.name, config.pos_embed.name) == ("none", "learned")
    assert (config.img_size, config.patch_size) == ((384, 384), (8, 16))


def test_numpys_integers_are_taken_as_pythons() -> None:
    config = ViTConfig().with_changes(num_classes=np.int64(5), img_size=np.int32(32), patch_size=(np.int64(8), 8))
    assert config == ViTConfig().with_changes(num_classes=5, img_size=32, patch_size=8)
    json.dumps(config.to_dict())


def test_a_config_cannot_be_changed_and_hashes_by_value() -> None:
    config = ViTConfig(norm=Component("layernorm", {"eps": 1e-5}))
    with pytest.raises(AttributeError):
        config.depth = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="cannot be changed"):
        config.norm.args["eps"] = 1.0  # type: ignore[index]
    assert hash(config) == hash(ViTConfig(norm=Component("layernorm", {"eps": 1e-5})))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_lists_become_tuples_so_that_the_round_trip_is_equal() -> None:
    component = Component.of(("axial", {"reference_grid": [16, 16]}))
    assert component.args["reference_grid"] == (16, 16)
    assert Component.of(json.loads(json.dumps(component.to_dict()))) == component
    assert str(component) == "axial(reference_grid=(16, 16))"


norms = st.sampled_from(["layernorm", "rmsnorm", ("layernorm", {"eps": 1e-5}), ("rmsnorm", {"eps": 1e-5})])
mlps = st.sampled_from(
    ["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu", ("swiglu", {"align_to": 8}), "swiglu_packed"]
)
positions = st.sampled_from(
    ["learned", ("learned", {"interpolation": "bilinear", "antialias": False}), "sincos2d", "none"]
)
ropes = st.sampled_from(["none", ("axial", {"reference_grid": [4, 4], "offset": 1.0}), "dinov3", "mixed"])


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the settings of a small model in which all parts fit each other."""
    block = draw(st.sampled_from(["pre_norm", "post_norm", "res_post_norm", "parallel"]))
    parallel = block == "parallel"
    class_token = draw(st.booleans())
    dist_token = class_token and draw(st.booleans())
    pools = ["avg", "avgmax", "max", "map", "none", ("gem", {"p": 2.0})] + ["token"] * class_token
    return {
        "img_size": draw(st.sampled_from([16, (8, 24)])),
        "patch_size": draw(st.sampled_from([4, (4, 8)])),
        "in_chans": draw(st.sampled_from([1, 3, 5])),
        "num_classes": draw(st.sampled_from([0, 7])),
        "embed_dim": 32,
        "depth": draw(st.integers(1, 3)),
        "num_heads": draw(st.sampled_from([2, 4])),
        "mlp_ratio": draw(st.sampled_from([2.0, 2.75])),
        "patch_embed": draw(st.sampled_from(["conv", "linear", "conv_stem", ("conv", {"use_norm": True})])),
        "pos_embed": draw(positions),
        "rope": draw(ropes),
        "block": block,
        "norm": draw(norms),
        "mlp": draw(st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "relu"]) if parallel else mlps),
        "pool": "distilled" if dist_token else draw(st.sampled_from(pools)),
        "class_token": class_token,
        "dist_token": dist_token,
        "reg_tokens": draw(st.integers(0, 2)),
        "mask_token": draw(st.booleans()),
        "no_embed_class": draw(st.booleans()),
        "pre_norm": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "fc_norm": draw(st.sampled_from([None, True, False])),
        "pool_include_prefix": draw(st.booleans()),
        "qkv_bias": draw(st.booleans() if parallel else st.sampled_from([True, False, "qv"])),
        "qkv_fused": parallel or draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "proj_bias": draw(st.booleans()),
        "scale_attn_norm": not parallel and draw(st.booleans()),
        "scale_mlp_norm": not parallel and draw(st.booleans()),
        "init_values": draw(st.sampled_from([None, 0.1])),
        "drop_path_rate": draw(st.sampled_from([0.0, 0.2])),
        "dynamic_img_pad": draw(st.booleans()),
    }


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(changes=configs())
def test_a_config_goes_through_json_to_an_equal_model(changes: dict[str, Any]) -> None:
    model = vitzoo.create("vit_tiny", **changes).eval()
    target, arguments, preprocess = parse(json.dumps(describe(model)))
    assert target == model.config
    again = vitzoo.create(target, **arguments).eval()
    again.load_state_dict(model.state_dict())
    image = torch.randn(2, model.in_chans, *model.config.img_size)
    with torch.no_grad():
        assert torch.equal(again(image), model(image))
    assert preprocess == model.preprocess


GOOD = {"format": 1, "model": "vit_tiny", "config": {}, "preprocess": None, "requires": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "config.json is not JSON"),
        ("[" * 100000, "config.json is not JSON"),
        ('{"format": ' + "1" * 5000 + "}", "config.json is not JSON"),
        ('{"format": true}', "config.json is not a vitzoo config: it has no 'format' number"),
        *(
            (json.dumps({**GOOD, key: value}), f"config.json is damaged: {key}=")
            for key, value in (
                ("model", 3),
                ("preprocess", [1]),
                ("preprocess", {"blur": 1}),
                ("preprocess", {"mean": ["a"], "std": [1]}),
                ("requires", {"acme": "x"}),
                ("requires", {"acme": {"distribution": "acme"}}),
                ("labels", 3),
            )
        ),
        (json.dumps({**GOOD, "config": {"pool": {"name": "gem", "args": [1]}}}), "the arguments of 'gem' are"),
        ("[]", "config.json is not a vitzoo config: it has no 'format' number"),
        (
            '{"format": 2}',
            "config.json has format 2, written by a newer vitzoo; this one reads up to 1: upgrade vitzoo",
        ),
        ('{"format": 1, "model": "vit_tiny"}', "lacks keys ['config', 'preprocess', 'requires']"),
        (
            '{"format": 1, "model": "vit_tiny", "config": {"depht": 3}, "preprocess": null, "requires": {}}',
            "a ViT has no setting 'depht'. Did you mean 'depth'?",
        ),
        (
            '{"format": 1, "model": "vit_tiny", "config": {"drop_rate": NaN}, "preprocess": null, "requires": {}}',
            "config.json holds NaN, which is not a finite number",
        ),
        (
            '{"format": 1, "model": "acme/x", "config": {}, "preprocess": null, "extra": 1, '
            '"requires": {"acme": {"distribution": "acme-vit", "version": "2.0"}}}',
            "has unknown keys ['extra']",
        ),
        (
            '{"format": 1, "model": "acme/x", "config": {}, "preprocess": null, '
            '"requires": {"acme": {"distribution": "acme-vit", "version": "2.0"}}}',
            "this model needs plugin 'acme', which is not installed: pip install acme-vit==2.0",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_a_config_file_that_cannot_be_trusted_or_understood_is_refused(text: str, words: str) -> None:
    with pytest.raises(vitzoo.VitzooError) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"norm": ("layernorm", {"epsilon": 1e-5})},
            "norm 'layernorm' takes no argument 'epsilon' (possible: eps). Did you",
        ),
        ({"mlp": ("gelu", {"bias": True})}, "mlp 'gelu' takes no argument 'bias'"),
        (
            {"patch_embed": ("linear", {"stride": 8})},
            "patch_embed 'linear' takes no argument 'stride' (possible: use_norm)",
        ),
        (
            {"patch_embed": ("conv", {"stride": 17})},
            "stride=(17, 17) is out of range (possible: 1 to patch_size=(16, 16)",
        ),
        (
            {"patch_embed": "conv_stem", "patch_size": 7},
            "needs an even patch size; got patch_size=(7, 7)",
        ),
        ({"patch_embed": ("conv_stem", {"depth": 5})}, "cannot halve patch_size=(16, 16) 5 times (possible: 1 to 4)"),
        (
            {"rope": "axial", "embed_dim": 90, "num_heads": 15},
            "a rope needs head_dim to be a multiple of 4; got head_dim=6",
        ),
        ({"pos_embed": "sincos2d", "embed_dim": 90, "num_heads": 15}, "needs embed_dim to be a multiple of 4; got 90"),
        (
            {"block": "parallel", "mlp": "swiglu"},
            "block='parallel' fuses the MLP's first layer with qkv and needs an MLP of",
        ),
        ({"block": "parallel", "qkv_bias": "qv"}, "block='parallel' has one projection for qkv and the MLP"),
        ({"pool": ("map", {"num_heads": 5})}, "pool='map' with num_heads=5 does not divide embed_dim=192"),
        (
            {"patch_embed": ("conv", {"stride": [1, 2, 3]})},
            "patch_embed 'conv' cannot be built with {'stride': (1, 2, 3)}",
        ),
        ({"pool": ("gem", {"p": "3"})}, "pool 'gem' cannot be built with {'p': '3'}"),
        ({"norm": ("layernorm", {"eps": "1e-5"})}, "eps is '1e-5'; a norm takes a number, 0 or more"),
        ({"norm": ("rmsnorm", {"eps": -1.0})}, "eps is -1.0; a norm takes a number, 0 or more"),
        ({"pos_embed": ("learned", {"interpolation": "lanczos"})}, "unknown interpolation 'lanczos'."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vitzoo.create("vit_tiny", **changes)
    assert words in str(caught.value)
