"""The model's public surface: shapes, heads, sizes, intermediates, training helpers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, SMALL, small
from torch import Tensor, nn

import vitzoo
from vitzoo.errors import CheckpointError, ConfigError, InputError, UnknownNameError

POOLS = ["token", "avg", "avgmax", "max", "map", "distilled", "gem", "none"]


def images(*size: int, channels: int = 3) -> Tensor:
    """Return two random images."""
    torch.manual_seed(1)
    return torch.randn(2, channels, *(size or (32, 32)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_at_any_size_and_every_parameter_has_a_gradient(family: str) -> None:
    model = small(family).train()
    logits = model(images(40, 24))
    assert logits.shape == (2, 5)
    (logits * torch.arange(5.0)).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == (["mask_token"] if model.mask_token is not None else [])
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.grad is not None)


@torch.inference_mode()
def test_a_pruned_model_is_saved_as_it_is(tmp_path: Path) -> None:
    model = small("rope_mixed", depth=4, drop_path_rate=0.3)
    model.prune_intermediate_layers([1])
    rates = [block.drop_path1.rate for block in model.blocks[1:]]
    vitzoo.save(model, tmp_path / "model")
    again = vitzoo.load(tmp_path / "model").eval()
    assert model.rope.freqs.shape[1] == again.rope.depth == 2
    assert torch.equal(again(images()), model(images()))
    assert [block.drop_path1.rate for block in again.blocks[1:]] == rates == [pytest.approx(0.1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_copying_and_pickling_keep_the_numbers_and_the_shared_choice_of_attention(family: str) -> None:
    model = small(family)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), model(images()))
        vitzoo.set_attention(twin, "reference")
        assert {str(layer.attend.choice) for layer in twin.modules() if hasattr(layer, "attend")} == {"reference"}
    assert model.builder.attend.choice == "auto"


@pytest.mark.parametrize("family", ["vit", "siglip", "deit_distilled"])
@pytest.mark.parametrize("pool", POOLS)
def test_any_pool_can_be_swapped_in_and_saved(family: str, pool: str, tmp_path) -> None:
    model = small(family).train()
    if family == "siglip" and pool in ("token", "distilled"):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ConfigError, match="class_token=True|dist_token=True"):
            model.reset_classifier(3, pool)
        assert before.keys() == model.state_dict().keys()
        assert model.global_pool == "map"
        return
    model.reset_classifier(3, pool)
    assert model.head.training
    assert model.attn_pool.training
    tokens = 16 + model.num_prefix_tokens
    logits = model(images())
    assert logits.shape == ((2, tokens, 3) if pool == "none" else (2, 3))
    logits.sum().backward()
    model.eval()
    vitzoo.save(model, tmp_path / "swapped")
    # Weights in a mapped file may lie at addresses that some kernels round otherwise for.
    loaded = copy.deepcopy(vitzoo.load(tmp_path / "swapped").eval())
    assert torch.equal(loaded(images()), model(images()))
    model.reset_classifier(0)
    assert model(images()).shape[-1] == 64


def test_pools_compute_what_they_say() -> None:
    model = small("dinov2_reg", num_classes=0)
    tokens = model.forward_features(images())
    patches = tokens[:, 5:]
    expected = {
        "token": tokens[:, 0],
        "avg": patches.mean(1),
        "max": patches.amax(1),
        "avgmax": (patches.mean(1) + patches.amax(1)) / 2,
        "gem": patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
        "none": tokens,
    }
    for pool, features in expected.items():
        model.reset_classifier(0, pool)
        torch.testing.assert_close(model.forward_head(tokens), features)
    model.reset_classifier(0, ("gem", {"p": 1.0}))
    torch.testing.assert_close(model.forward_head(tokens.abs()), patches.abs().mean(1), rtol=1e-5, atol=1e-6)


def test_prefix_tokens_are_pooled_when_asked() -> None:
    model = small("vit", pool="avg", pool_include_prefix=True, num_classes=0, fc_norm=False)
    torch.testing.assert_close(model(images()), model.forward_features(images()).mean(1))


def test_resetting_the_classifier_names_what_is_unknown_or_doubled() -> None:
    model = small("vit")
    with pytest.raises(UnknownNameError, match="unknown pool 'avgg'. Did you mean 'avg'"):
        model.reset_classifier(3, "avgg")
    with pytest.raises(ConfigError, match="pool and global_pool are one setting"):
        model.reset_classifier(3, "avg", global_pool="max")
    model.reset_classifier(3, global_pool="avg")
    assert (model.global_pool, model.num_classes) == ("avg", 3)
    model.reset_classifier(0, "")
    assert (model.global_pool, model.num_classes) == ("none", 0)
    assert isinstance(model.norm, nn.LayerNorm)


def test_distilled_training_gives_both_logits_and_evaluation_their_mean() -> None:
    model = small("deit_distilled").train()
    model.set_distilled_training()
    first, second = model(images())
    model.eval()
    torch.testing.assert_close(model(images()), (first + second) / 2)
    assert model.get_classifier() == (model.head, model.head_dist)


@pytest.mark.parametrize("family", ["vit", "siglip", "dinov3"])
def test_intermediates(family: str) -> None:
    model = small(family, depth=4)
    x, prefix = images(32, 48), model.num_prefix_tokens
    last, features = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert [tuple(feature.shape) for feature in features] == [(2, 64, 4, 6)] * 4

    pairs = model.forward_intermediates(
        x, [-1, 1], return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    patches = pairs[0][0] if prefix else pairs[0]
    torch.testing.assert_close(patches, last[:, prefix:])
    if prefix:
        torch.testing.assert_close(pairs[0][1], last[:, :prefix])

    full = model.forward_intermediates(x, 2, output_dict=True, return_prefix_tokens=True)
    assert set(full) - {"image_intermediates_prefix"} == {"image_features", "image_intermediates"}
    assert ("image_intermediates_prefix" in full) == bool(prefix)
    layers = model.get_intermediate_layers(x, n=2, reshape=True)
    torch.testing.assert_close(layers[1], features[3])


def test_stopping_early_runs_no_later_block() -> None:
    model = small("vit", depth=4)
    ran: list[int] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.forward_intermediates(images(), [0, 1], stop_early=True)
    assert ran == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"indices": 5}, "the last 5 blocks were asked for (possible: 1 to 2)"),
        ({"indices": [2]}, "block 2 was asked for (possible: -2 to 1)"),
        ({"indices": []}, "no block was asked for"),
        ({"output_fmt": "NHWC"}, "output_fmt='NHWC' is unknown (possible: 'NCHW', 'NLC')"),
    ],
)
def test_intermediates_that_do_not_exist(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        small("vit").forward_intermediates(images(), **arguments)
    assert words in str(caught.value)


def test_features_only_says_of_its_images_and_weights_what_the_model_does(tmp_path) -> None:
    vitzoo.save(small("vit"), tmp_path)
    model = vitzoo.load(tmp_path, features_only=True, out_indices=1)
    assert model.load_report is model.model.load_report
    assert model.provenance is model.model.provenance
    assert model.config.img_size == copy.deepcopy(model).config.img_size == (32, 32)
    assert vitzoo.transforms(model)(torch.zeros(3, 40, 40, dtype=torch.uint8)).shape == (3, 32, 32)
    with pytest.raises(CheckpointError, match=r"FeatureExtractor .*\.model"):
        vitzoo.save(model, tmp_path / "features")
    with pytest.raises(AttributeError, match="no attribute 'labelz'"):
        model.labelz  # noqa: B018


def test_features_only_gives_chosen_blocks_and_says_what_they_are() -> None:
    whole = vitzoo.create("vit_tiny", **{**SMALL, "depth": 4}).eval()
    model = vitzoo.create("vit_tiny", features_only=True, out_indices=(0, 2), **{**SMALL, "depth": 4}).eval()
    kept = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    kept.update({name: whole.state_dict()[name] for name in kept})
    model.model.load_state_dict(kept)
    features = model(images())
    for feature, expected in zip(features, whole.forward_intermediates(images(), [0, 2])[1], strict=True):
        torch.testing.assert_close(feature, expected)
    assert len(model.model.blocks) == 3
    assert not any(name.startswith(("head", "norm.")) for name in kept)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([64, 64], [8, 8])
    assert model.feature_info.module_name() == ["blocks.0", "blocks.2"]
    assert (model.feature_info.channels(1), model.feature_info.module_name([3, 0])) == (64, ["blocks.3", "blocks.0"])
    assert (len(model.feature_info), model.feature_info[2]["module"]) == (4, "blocks.2")
    with pytest.raises(ConfigError, match=r"out_indices=\(0,\) is for features_only=True"):
        vitzoo.create("vit_tiny", out_indices=(0,), **SMALL)


@pytest.mark.parametrize("dtype", ["float16", torch.int8])
def test_a_dtype_that_weights_cannot_have_is_refused(dtype: object) -> None:
    with pytest.raises(ConfigError, match=f"dtype={dtype!r} is no floating dtype of torch, such as torch.float16"):
        vitzoo.create("vit_tiny", dtype=dtype, **SMALL)


@pytest.mark.parametrize("family", ["vit", "dinov3", "flexivit", "rope_mixed"])
def test_another_input_size_set_or_fed_gives_the_same(family: str) -> None:
    model = small(family)
    fed = model(images(48, 24))
    model.set_input_size((48, 24))
    assert (model.patch_embed.grid_size, model.config.img_size) == ((6, 3), (48, 24))
    torch.testing.assert_close(model(images(48, 24)), fed)


def test_another_patch_size_resizes_the_kernel() -> None:
    model = small("flexivit")
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 4, 4), size=(32, 32), mode="bicubic")
    twice = torch.nn.functional.interpolate(smooth, size=(64, 64), mode="bicubic")
    before = model(smooth)
    model.set_input_size(64, 16)
    assert model.patch_embed.proj.weight.shape[-2:] == (16, 16)
    assert (model.config.patch_size, model.pos_embed.shape[1]) == ((16, 16), 16)
    torch.testing.assert_close(model(twice), before, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("family", "sizes", "error", "words"),
    [
        ("vit", (33, None), InputError, "an image of 33x33 pixels does not divide into patches of 8x8"),
        ("vit", (None, 7), InputError, "an image of 32x32 pixels does not divide into patches of 7x7"),
        ("hybrid", (None, 16), ConfigError, "ConvStem cannot change its patch size from (8, 8) to (16, 16)"),
        ("overlapping", (None, 16), ConfigError, "overlapping patches cannot change their patch size"),
    ],
)
def test_an_impossible_size_leaves_the_model_as_it_was(family, sizes, error, words) -> None:
    model = small(family)
    before, config = model(images()), model.config
    with pytest.raises(error) as caught:
        model.set_input_size(*sizes)
    assert words in str(caught.value)
    assert model.config == config
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize(
    ("image", "changes", "words"),
    [
        (
            torch.zeros(1, 3, 30, 32),
            {},
            "30x32 pixels does not divide into patches of 8x8 at stride 8x8; possible: 24x32 or",
        ),
        (torch.zeros(1, 3, 4, 32), {}, "an image of 4x32 pixels gives 0 tokens: it is smaller than a patch of 8x8"),
        (torch.zeros(1, 3, 0, 0), {"dynamic_img_pad": True}, "an image of 0x0 pixels gives 0 tokens"),
        (
            torch.zeros(1, 4, 32, 32),
            {},
            "the image has 4 channels, this model takes 3; got shape (1, 4, 32, 32), expected",
        ),
        (torch.zeros(3, 32, 32), {}, "images are (B, 3, H, W); got shape (3, 32, 32)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), {}, "images are floating point; got torch.uint8"),
        (
            torch.zeros(1, 3, 40, 40),
            {"dynamic_img_size": False},
            "this model takes images of 32x32 pixels, got 40x40; call",
        ),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_an_image_that_does_not_fit_is_refused(image: Tensor, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        small("vit", **changes)(image)
    assert words in str(caught.value)


def test_padding_completes_patches_with_zeros() -> None:
    model = small("vit", dynamic_img_pad=True)
    padded = torch.zeros(2, 3, 32, 40)
    padded[:, :, :30, :33] = images(30, 33)
    assert torch.equal(model(images(30, 33)), model(padded))


def test_nan_in_one_image_stays_in_that_image() -> None:
    batch = images()
    batch[1, 0, 0, 0] = float("nan")
    logits = small("vit")(batch)
    assert logits[0].isfinite().all()
    assert logits[1].isnan().all()


@pytest.mark.parametrize("channels", [1, 32])
def test_one_to_thirty_two_channels(channels: int) -> None:
    assert small("vit", in_chans=channels)(images(channels=channels)).shape == (2, 5)


def test_the_linear_patch_embedding_is_the_convolution() -> None:
    conv, linear = small("vit"), small("vit", patch_embed="linear")
    linear.load_state_dict(conv.state_dict())
    x = images(40, 24)
    torch.testing.assert_close(linear.patch_embed(x)[0], conv.patch_embed(x)[0])


def test_overlapping_patches_see_what_a_strided_convolution_sees() -> None:
    model = small("overlapping")
    tokens, grid = model.patch_embed(images(32, 40))
    assert grid == (7, 9)
    assert tokens.shape[1] == 63


@pytest.mark.parametrize("kind", ["keys", "boolean", "additive", "per_head", "block_diagonal"])
def test_an_attention_mask_hides_tokens(kind: str) -> None:
    model, x = small("vit", pool="none", num_classes=0), images()
    visible = torch.ones(17, dtype=torch.bool)
    visible[5:9] = False
    mask = {
        "keys": visible[None, None, None].expand(2, -1, -1, -1),
        "boolean": visible.expand(17, 17),
        "additive": torch.zeros(17, 17).masked_fill(~visible, float("-inf")),
        "per_head": visible.expand(1, 2, 17, 17),
        "block_diagonal": visible.expand(2, 17, 17),
    }[kind]
    other = x.clone()
    # Patches 5 to 8 (after the class token) are pixels 8 to 15 of the rows.
    other[:, :, 8:16] += 1.0
    plain, masked, masked_other = model(x), model(x, attn_mask=mask), model(other, attn_mask=mask)
    shown = visible.nonzero().flatten()
    torch.testing.assert_close(masked[:, shown], masked_other[:, shown])
    assert not torch.allclose(plain[:, 0], masked[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(16, 16, dtype=torch.bool), "attn_mask has shape (16, 16); for 2 images of 17 tokens"),
        (
            torch.ones(17, 17, dtype=torch.int64),
            "attn_mask is boolean (True is visible) or floating point (added); got",
        ),
        (torch.ones(3, 17, 17), "attn_mask has shape (3, 17, 17)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor, words: str) -> None:
    with pytest.raises(InputError) as caught:
        small("vit")(images(), attn_mask=mask)
    assert words in str(caught.value)


def test_the_mask_token_stands_in_for_masked_patches() -> None:
    model = small("dinov2_reg")
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, :4] = True
    other = images()
    other[:, :, :8] += 1.0
    torch.testing.assert_close(model(images(), patch_mask=mask), model(other, patch_mask=mask))
    assert not torch.allclose(model(images(), patch_mask=mask), model(images()))
    with pytest.raises(InputError, match="patch_mask needs a mask token: create the model with mask_token=True"):
        small("vit")(images(), patch_mask=mask)
    with pytest.raises(InputError, match=r"patch_mask is boolean of shape \(2, 16\)"):
        model(images(), patch_mask=mask[:, :3])


DROPS = ["drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"]


@pytest.mark.parametrize("family", ["vit", "sbb_parallel", "rope_mixed"])
@pytest.mark.parametrize("name", DROPS)
def test_every_dropout_acts_while_training_and_only_then(family: str, name: str) -> None:
    plain, dropping = small(family), small(family, **{name: 0.5})
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(dropping(images()), plain(images()))
    dropping.train()
    assert not torch.allclose(dropping(images()), plain(images()), atol=1e-4)


def test_dropping_all_but_one_patch_keeps_the_prefix_and_the_rotations() -> None:
    model = small("rope_mixed", patch_drop_rate=0.75, num_classes=0, pool="none").train()
    assert model(images()).shape == (2, 5, 64)
    with pytest.raises(InputError, match="attn_mask and patch_drop_rate do not go together while training"):
        model(images(), attn_mask=torch.ones(17, 17, dtype=torch.bool))


def test_patches_are_dropped_from_rows_of_tokens_and_never_from_a_grid() -> None:
    model = small("vit", patch_drop_rate=0.5).train()
    with pytest.raises(InputError, match=r"patch_drop_rate=0.5 drops patches .* \(possible: 'NLC', model.eval\(\)"):
        model.forward_intermediates(images())
    assert model.forward_intermediates(images(), output_fmt="NLC", intermediates_only=True)[0].shape == (2, 8, 64)
    assert model.eval().forward_intermediates(images()[:0], intermediates_only=True)[0].shape == (0, 64, 4, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients(family: str) -> None:
    grads = []
    for enable in (False, True):
        model = small(family).train()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        grads.append(
            {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        )
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


def test_training_helpers_name_real_parameters() -> None:
    model = small("rope_mixed", reg_tokens=1)
    names = {name for name, _ in model.named_parameters()}
    assert {"pos_embed", "cls_token", "reg_token", "rope.freqs"} <= model.no_weight_decay()
    assert {"pos_embed", "cls_token", "reg_token", "rope.freqs"} <= names
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    scales = sorted({group["lr_scale"] for group in groups})
    assert scales == [0.125, 0.25, 0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize("mode", ["", "jax", "jax_nlhb", "moco", "reset"])
def test_weights_are_drawn_anew(mode: str) -> None:
    model = small("dinov3")
    before = model.blocks[0].attn.qkv.weight.clone()
    torch.manual_seed(0)
    model.init_weights(mode)
    weight = model.blocks[0].attn.qkv.weight
    assert not torch.equal(weight, before)
    assert model.blocks[0].attn.q_bias.abs().max() == 0
    assert torch.equal(model.blocks[0].ls1.gamma, torch.full((64,), 0.1))
    if mode == "":
        assert abs(weight.std().item() - 0.02) < 0.001
    if mode == "jax_nlhb":
        torch.testing.assert_close(model.head.bias, torch.full((5,), -1.6094379))
    with pytest.raises(ConfigError, match="unknown weight initialisation 'jaxx'. Did you mean 'jax'"):
        model.init_weights("jaxx")


def test_what_people_read() -> None:
    model = small("dinov2_reg", img_size=(32, 48))
    assert (model.num_features, model.head_hidden_size, model.embed_dim) == (64, 64, 64)
    assert (model.num_prefix_tokens, model.num_reg_tokens, model.has_class_token, model.no_embed_class) == (
        5,
        4,
        True,
        True,
    )
    assert (model.patch_embed.img_size, model.patch_embed.grid_size, model.patch_embed.num_patches) == (
        (32, 48),
        (4, 6),
        24,
    )
    assert model.patch_embed.dynamic_feat_size((64, 64)) == (8, 8)
    assert model.feature_info[1] == {"module": "blocks.1", "num_chs": 64, "reduction": 8}
    assert model.default_cfg["input_size"] == (3, 32, 48)
    assert model.get_classifier() is model.head


def test_timm_reads_the_preprocessing() -> None:
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(small("vit"))
    assert data["input_size"] == (3, 32, 32)
    assert (data["mean"], data["crop_pct"], data["interpolation"]) == ((0.5, 0.5, 0.5), 0.9, "bicubic")
