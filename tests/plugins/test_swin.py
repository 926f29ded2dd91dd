"""The swin plugin: the same numbers as the libraries', through vitzoo's doors alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import group_parameters
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from torch import Tensor, nn
from typer.testing import CliRunner
from vitzoo_kernels import attention_reference
from vitzoo_swin.manifest import register
from vitzoo_swin.sizes import SIZES, TEST_CONFIG

import vitzoo
from vitzoo.cli.app import app_for
from vitzoo.errors import CheckpointError, ConfigError
from vitzoo.plugin import Registrar, get_entry, get_registry, plugins
from vitzoo.registry import Registry
from vitzoo.weights.formats.choose import format_names, get_format
from vitzoo.weights.source import open_source

# float64; tables of timm are resized in float32.
EXACT, FLOAT32_RESIZE = 1e-10, 1e-6
SMALL: dict[str, Any] = {
    "img_size": 56,
    "embed_dim": 16,
    "depths": (2, 2, 2),
    "num_heads": (2, 4, 4),
    "window_size": 5,
    "num_classes": 7,
    "drop_path_rate": 0.0,
}


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> Iterator[None]:
    """Register the plugin as an installed package would, where none is, and keep to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with get_registry().temporary() as registry:
        if "swin" not in plugins():
            registrar = Registrar("swin")
            register(registrar)
            registrar.commit(registry)
        yield
    torch.set_num_threads(threads)


def error(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    assert got.shape == expected.shape
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


def randomized(model: nn.Module) -> nn.Module:
    """Move every weight of a float64 model away from where it starts: some start at 0 and hide what they scale."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return model


def image(*size: int) -> Tensor:
    """Return two images in float64."""
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def timm_pair(version: int, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return vitzoo's and timm's model of the small size with the same weights."""
    settings = {**SMALL, **settings} | ({"pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})
    theirs = randomized((TimmSwin if version == 1 else TimmSwinV2)(**settings, strict_img_size=False))
    if version == 2:
        # Beyond the largest scale that the model takes.
        nn.init.constant_(theirs.layers[0].blocks[1].attn.logit_scale[0], 5.0)
    ours = vitzoo.create(f"swin/v{version}", dtype=torch.float64, **settings).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("always_partition", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_outputs_features_and_gradients_are_timms_at_sizes_that_windows_do_not_divide(
    version: int, always_partition: bool
) -> None:
    ours, theirs = timm_pair(version, always_partition=always_partition)
    for size in ((56, 56), (60, 44), (16, 100)):
        x = image(*size)
        features, expected = (model.forward_intermediates(x, norm=True) for model in (ours, theirs))
        for one, other in zip(features[1], expected[1], strict=True):
            assert error(one, other) < EXACT, size
        assert error(features[0], expected[0]) < EXACT
        logits, their_logits = ours(x), theirs(x)
        assert error(logits, their_logits) < EXACT, size
    logits.square().sum().backward()
    their_logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert error(parameter.grad, gradients[name]) < EXACT, name


def torchvision_model(version: int) -> nn.Module:
    """Return a small model of torchvision's, which keeps buffers in its state dict."""
    from torchvision.models import swin_transformer as tv

    settings = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4]}
    second = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2} if version == 2 else {}
    return tv.SwinTransformer(**settings, window_size=[4, 4], num_classes=7, **second)


def transformers_model(version: int, *, classes: int, **settings: Any) -> nn.Module:
    """Return a small model of transformers."""
    import transformers

    family = {1: "Swin", 2: "Swinv2"}[version]
    config = getattr(transformers, f"{family}Config")(
        **{
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2, 2],
            "num_heads": [2, 4, 4],
            "window_size": 4,
            "num_labels": classes,
            **settings,
        }
    )
    return getattr(transformers, f"{family}{'ForImageClassification' if classes else 'Model'}")(config)


def out_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits, or the pooled features of a model without classes."""
    result = model(x)
    if isinstance(result, Tensor):
        return result
    return result.logits if "logits" in result else result.pooler_output


@pytest.mark.parametrize("version", [1, 2])
@torch.inference_mode()
def test_timms_files_are_read_and_written(version: int, tmp_path: Path) -> None:
    ours, theirs = timm_pair(version)
    file = tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), file)
    told = {"img_size": 56, **({"window_size": 5, "pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})}
    loaded = vitzoo.load(file, dtype=torch.float64, **told).eval()
    assert loaded.load_report.format == "swin/timm"
    assert loaded.model_name == f"swin/v{version}"
    assert error(loaded(image(56, 56)), theirs(image(56, 56))) < EXACT

    vitzoo.save(ours, tmp_path / "ours.safetensors", format="swin/timm")
    fresh = (TimmSwin if version == 1 else TimmSwinV2)(
        **{**SMALL, **({"pretrained_window_sizes": (4, 4, 0)} if version == 2 else {})}
    ).double()
    fresh.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    assert error(ours(image(56, 56)), fresh.eval()(image(56, 56))) < EXACT


@pytest.mark.parametrize("version", [1, 2])
@torch.inference_mode()
def test_torchvisions_files_are_read_and_written_and_any_size_gives_its_numbers(version: int, tmp_path: Path) -> None:
    theirs, file = randomized(torchvision_model(version)), tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    ours = vitzoo.load(file, dtype=torch.float64).eval()
    assert ours.load_report.format == "swin/torchvision"
    for size in ((64, 64), (72, 100), (16, 44)):
        assert error(ours(image(*size)), theirs(image(*size))) < EXACT, size

    vitzoo.save(ours, tmp_path / "ours.safetensors", format="swin/torchvision")
    written = load_file(tmp_path / "ours.safetensors")
    assert bool(written["features.1.0.attn.qkv.bias"].chunk(3)[1].any()) == (version == 1)
    again = torchvision_model(version).double().eval()
    again.load_state_dict(written, strict=True)
    assert error(again(image(72, 100)), theirs(image(72, 100))) < EXACT


@pytest.mark.parametrize(
    ("version", "classes", "settings"),
    [
        (1, 7, {}),
        (1, 0, {"hidden_act": "quick_gelu", "image_size": 80}),
        (2, 7, {"pretrained_window_sizes": [3, 3, 2, 0]}),
        (2, 0, {"qkv_bias": False, "window_size": 6}),
    ],
)
@torch.inference_mode()
def test_directories_of_transformers_are_read_and_written(
    version: int, classes: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs = randomized(transformers_model(version, classes=classes, **settings))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = vitzoo.load(tmp_path / "theirs", dtype=torch.float64).eval()
    assert ours.load_report.format == "swin/transformers"
    x = image(*ours.settings.img_size)
    assert error(ours(x), out_of(theirs, x)) < EXACT

    vitzoo.save(ours, tmp_path / "ours", format="swin/transformers")
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, dtype=torch.float64)
    assert not any(info.values()), info
    assert error(out_of(again.eval(), x), out_of(theirs, x)) < EXACT
    # In memory version 5 has other names than on disk.
    save_file(theirs.state_dict(), tmp_path / "theirs" / "model.safetensors")
    assert error(vitzoo.load(tmp_path / "theirs", dtype=torch.float64).eval()(x), out_of(theirs, x)) < EXACT


@pytest.mark.parametrize("name", [*(size.name for size in SIZES)])
def test_every_size_has_the_parameters_of_the_table_and_timms_names(name: str) -> None:
    size = next(size for size in SIZES if size.name == name)
    ours = vitzoo.create(f"swin/{name}", device="meta")
    with torch.device("meta"):
        theirs = timm.create_model(size.timm, num_classes=1000)
    assert sum(parameter.numel() for parameter in ours.parameters()) == size.params
    shapes, expected = ({key: value.shape for key, value in m.state_dict().items()} for m in (ours, theirs))
    assert shapes == expected
    for coarse in (False, True):
        groups, expected_groups = (group_parameters(m, m.group_matcher(coarse)) for m in (ours, theirs))
        assert {key: set(names) for key, names in groups.items()} == {
            key: set(names) for key, names in expected_groups.items()
        }
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    assert ours.feature_info == list(theirs.feature_info)
    assert ours.pretrained_cfg["input_size"] == theirs.pretrained_cfg["input_size"]
    assert ours.pretrained_cfg["crop_pct"] == theirs.pretrained_cfg["crop_pct"]
    # What a stage's windows and shifts become where its grid is small.
    for stage, (our_stage, their_stage) in enumerate(zip(ours.layers, theirs.layers, strict=True)):
        for block, other in zip(our_stage.blocks, their_stage.blocks, strict=True):
            assert (block.attn.window, block.attn.shift) == (other.window_size, other.shift_size), stage


@pytest.mark.parametrize(
    "change", [{"img_size": 64}, {"img_size": (48, 80), "window_size": 4}, {"window_size": (3, 4)}]
)
@pytest.mark.parametrize("version", [1, 2])
# timm's own interpolation.
@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning", "ignore:Using a non-tuple:UserWarning")
@torch.inference_mode()
def test_another_size_gives_timms_numbers_in_place_and_through_a_file(
    version: int, change: dict[str, Any], tmp_path: Path
) -> None:
    ours, theirs = timm_pair(version)
    vitzoo.save(ours, tmp_path / "small")
    theirs.set_input_size(**change)
    ours.set_input_size(**change)
    x = image(*ours.settings.img_size)
    limit = FLOAT32_RESIZE if version == 1 else EXACT
    assert error(ours(x), theirs(x)) < limit
    vitzoo.save(ours, tmp_path / "large")
    again = vitzoo.load(tmp_path / "large", dtype=torch.float64).eval()
    assert again.config == ours.config
    assert error(again(x), ours(x)) < EXACT
    # Loaded at once, the windows are those that are given.
    told = {"img_size": ours.settings.img_size, "window_size": ours.settings.window_size}
    loaded = vitzoo.load(tmp_path / "small", dtype=torch.float64, **told).eval()
    assert error(loaded(x), ours(x)) < EXACT
    resized = [note.what for note in loaded.load_report.of("resized")]
    assert bool(loaded.load_report.of("set")) == (version == 2 and "window_size" in change)
    # Stages 0 and 1 had windows of 5x5, and stage 2 of its whole grid, 4x4.
    first, last = (f"layers.{stage}.blocks.0.attn.relative_position_bias_table and" for stage in (0, 2))
    tables = version == 1 and ours.settings.window_size != ((5, 5),) * 3
    assert resized == ([f"{first} 3 more", f"{last} 1 more"] if tables else [])


class Counted:
    """A backend that counts its calls and keeps the shapes of their biases."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor, scale: float | None = None) -> Tensor:
        self.shapes.append(bias.shape)
        return attention_reference(q, k, v, bias=bias, scale=scale)


@pytest.mark.parametrize("version", [1, 2])
def test_every_layer_calls_the_chosen_backend_with_one_bias_for_all_windows_that_are_masked_alike(
    version: int, registry: Registry
) -> None:
    counted = Counted()
    caps = vitzoo.AttentionCaps(
        devices=("cpu",), dtypes=("float64",), head_dims=None, backward=True, bias=True, bias_grad=True
    )
    vitzoo.register("attention", "test/counted", caps=caps)(counted)
    model = vitzoo.create(f"swin/v{version}", attn="test/counted", dtype=torch.float64, **SMALL)
    randomized(model)
    x = image(56, 56)
    model(x).square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    # Grids of 14, 7 and 4 tokens: two blocks a stage, the second with four regions; the last window covers its grid.
    assert [tuple(shape) for shape in counted.shapes] == [
        *[(1, 2, 25, 25)] * 5,
        *[(1, 4, 25, 25)] * 5,
        *[(1, 4, 16, 16)] * 2,
    ]
    model.zero_grad()
    vitzoo.set_attention(model, "sdpa")
    model(x).square().sum().backward()
    assert len(counted.shapes) == 12
    for name, parameter in model.named_parameters():
        assert error(parameter.grad, gradients[name]) < EXACT, name


def test_maps_and_explanations_of_a_layer_that_attends_several_times() -> None:
    model = vitzoo.create("swin/v1", **{**SMALL, "depths": (2,), "num_heads": (2,)})
    x = torch.randn(2, 3, 56, 56)
    maps = vitzoo.attention_maps(model, x, queries="patches")
    assert {name: tuple(rows.shape) for name, rows in maps.items()} == {
        f"layers.0.blocks.{index}.attn": (2 * 9, 2, 25, 25) for index in range(2)
    }
    assert "layers.0.blocks.0.attn .. layers.0.blocks.1.attn (2 layers): sdpa ran 25 queries" in str(
        vitzoo.explain_attention(model, x)
    )


@pytest.mark.parametrize("version", [1, 2])
def test_checkpointing_a_compiled_and_an_exported_model_change_nothing(version: int) -> None:
    model = vitzoo.create(f"swin/v{version}", **{**TEST_CONFIG, "depths": (2,), "num_heads": (2,)})
    randomized(model).float()
    x = torch.randn(2, 3, 32, 32)
    model(x).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model.train()(x).sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    model.set_grad_checkpointing(False)
    model.eval()
    # Tracing takes seconds, and what differs between the versions is plain arithmetic: each is traced in one way.
    with torch.no_grad():
        if version == 1:
            torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
            return
        exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("images", max=8)},))
        three = torch.randn(3, 3, 32, 32)
        torch.testing.assert_close(exported.module()(three), model(three))


def drop_paths(model: torch.nn.Module) -> list[float]:
    """Return the stochastic depth of every block but the first, which has none."""
    blocks = [block for stage in model.stages for block in stage.blocks]
    return [block.drop_path1.rate for block in blocks[1:]]


def test_a_directory_of_its_own_brings_its_switches_images_and_labels(tmp_path: Path) -> None:
    model = vitzoo.create("swin/v1", **SMALL, act_layer="relu")
    model.labels = ("a", "b")
    vitzoo.save(model, tmp_path / "model")
    again = vitzoo.create("swin/v1", weights=tmp_path / "model", **SMALL)
    assert (again.settings.act_layer, again.labels) == ("relu", ("a", "b"))
    assert str(again.load_report.of("set")[0]).startswith("set act_layer='relu'")


@torch.inference_mode()
def test_features_only_gives_maps_of_stages_and_leaves_out_the_rest(tmp_path: Path) -> None:
    settings = {**SMALL, "drop_path_rate": 0.3}
    model = vitzoo.create("swin/v1", **settings, features_only=True, out_indices=(0, 1)).eval()
    maps = model(torch.randn(2, 3, 56, 48))
    assert [tuple(one.shape) for one in maps] == [(2, 16, 14, 12), (2, 32, 7, 6)]
    assert model.feature_info.channels() == [16, 32]
    assert model.feature_info.reduction() == [4, 8]
    assert not [name for name in model.state_dict() if name.startswith(("model.layers.2", "model.norm", "model.head"))]
    # What is left can be saved and loaded.
    vitzoo.save(model.model, tmp_path / "pruned")
    again = vitzoo.load(tmp_path / "pruned").eval()
    assert drop_paths(again) == pytest.approx(drop_paths(model.model))
    x = torch.randn(1, 3, 56, 56)
    assert torch.equal(again.forward_intermediates(x)[0], model.model.forward_intermediates(x)[0])
    with pytest.raises(vitzoo.VitzooError, match="stage 3 was asked for"):
        again.forward_intermediates(x, [3])


@torch.inference_mode()
def test_heads_and_pools_change_and_stay_through_a_round_trip(tmp_path: Path) -> None:
    model = vitzoo.create("swin/v2", **SMALL).eval()
    x = torch.randn(2, 3, 56, 56)
    tokens = model.forward_features(x)
    model.reset_classifier(3, "avgmax")
    assert model.get_classifier().weight.shape == (3, 64)
    assert model(x).shape == (2, 3)
    pooled = model.forward_head(tokens, pre_logits=True)
    torch.testing.assert_close(pooled, 0.5 * (tokens.mean(dim=(1, 2)) + tokens.amax(dim=(1, 2))))
    vitzoo.save(model, tmp_path / "model")
    again = vitzoo.load(tmp_path / "model").eval()
    assert torch.equal(again(x), model(x))
    assert again.config == model.config
    assert again.preprocess == model.preprocess
    model.reset_classifier(0, global_pool="")
    assert model(x).shape == (2, 4, 4, 64)
    with pytest.raises(vitzoo.VitzooError, match="pool='map' \\(possible: avg, max, avgmax, none\\)"):
        model.reset_classifier(2, "map")
    assert model.num_classes == 0
    assert vitzoo.transforms(again)(torch.zeros(3, 80, 70, dtype=torch.uint8)).shape == (3, 56, 56)


def test_a_models_name_its_weights_switches_and_a_new_head(tmp_path: Path) -> None:
    file = tmp_path / "torchvision.pth"
    torch.save(torchvision_model(1).state_dict(), file)
    settings = {**SMALL, "img_size": 64, "window_size": 4}
    model = vitzoo.create("swin/tiny", weights=file, **settings)
    assert [str(note) for note in model.load_report.of("set")] == [
        "set always_partition=True: as the source computes; the name says False",
        "set pad_first=True: as the source computes; the name says False",
    ]
    assert model.settings.pad_first
    kept = vitzoo.create("swin/tiny", weights=file, pad_first=False, always_partition=False, **settings)
    assert not kept.settings.pad_first
    with pytest.raises(CheckpointError, match=r"mismatched \(2\): head.fc.bias \(7,\), the model has \(9,\)"):
        vitzoo.create("swin/tiny", weights=file, **{**settings, "num_classes": 9})
    fresh = vitzoo.create("swin/tiny", weights=file, reset="head", **{**settings, "num_classes": 9})
    assert fresh.load_report.of("reset")[0].what == "head.fc"
    assert fresh.get_classifier().weight.shape == (9, 64)
    assert torch.equal(fresh.norm.weight, model.norm.weight)
    grey = vitzoo.load(file, in_chans=1, patch_size=8, img_size=128)
    assert grey.patch_embed.proj.weight.shape == (16, 1, 8, 8)
    with pytest.raises(CheckpointError, match="reset='norm' is unknown"):
        vitzoo.load(file, reset="norm")


def test_version_2_takes_no_weights_that_measure_offsets_otherwise(tmp_path: Path) -> None:
    # Windows of 7, 7 and 4.
    measured = vitzoo.create("swin/v2", **SMALL, pretrained_window_sizes=(4, 4, 0))
    vitzoo.save(measured, tmp_path / "model")
    words = r"by pretrained_window_sizes=\(\(4, 4\), \(4, 4\), \(0, 0\)\), this model by \(\(0, 0\), .* would be wrong"
    with pytest.raises(CheckpointError, match=words):
        vitzoo.create("swin/v2", weights=tmp_path / "model", **SMALL)
    # The same said otherwise, and other windows that measure as the source's do.
    last = measured.settings.window_of(2)
    for same in ({"pretrained_window_sizes": (4, 4, last)}, {"img_size": 96, "pretrained_window_sizes": (4, 4, last)}):
        loaded = vitzoo.create("swin/v2", weights=tmp_path / "model", **{**SMALL, **same})
        assert torch.equal(loaded.norm.weight, measured.norm.weight)


def test_a_directory_of_timms_and_the_authors_file_tell_their_model(tmp_path: Path) -> None:
    theirs = TimmSwin(**{**SMALL, "img_size": 224, "window_size": 7, "depths": (2, 2), "num_heads": (3, 6)})
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    arguments = {"depths": [2, 2], "num_heads": [3, 6], "embed_dim": 16, "window_size": 7, "global_pool": "max"}
    images = {"input_size": [3, 224, 224], "crop_pct": 0.8, "license": "mit"}
    described = {"architecture": "swin_tiny_patch4_window7_224", "model_args": arguments, "pretrained_cfg": images}
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="num_heads=3 does not divide the 16 channels"):
        vitzoo.load(folder)
    arguments["num_heads"] = [2, 4]
    theirs = TimmSwin(**{**SMALL, "img_size": 224, "window_size": 7, "depths": (2, 2), "num_heads": (2, 4)}).eval()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(described))
    ours = vitzoo.load(folder).eval()
    assert (ours.settings.pool, ours.preprocess.crop_pct, ours.provenance.license) == ("max", 0.8, "mit")

    authors = {
        name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    authors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    torch.save({"model": authors}, tmp_path / "authors.pth")
    read = vitzoo.load(tmp_path / "authors.pth", img_size=224, pool="max").eval()
    assert torch.equal(read(image(224, 224).float()), ours(image(224, 224).float()))
    assert [note.action for note in read.load_report.notes] == ["dropped", "converted"]


def test_formats_and_models_that_do_not_belong_together_are_told_so(tmp_path: Path) -> None:
    swin = vitzoo.create("swin/v1", **TEST_CONFIG)
    plain = vitzoo.create("vit_tiny", depth=1)
    own = {"swin/timm", "swin/torchvision", "swin/transformers"}
    files = {name: tmp_path / f"{name}.pth" for name in ("timm", "torchvision", "transformers", "plain")}
    torch.save(swin.state_dict(), files["timm"])
    torch.save(torchvision_model(2).state_dict(), files["torchvision"])
    torch.save(transformers_model(1, classes=3).state_dict(), files["transformers"])
    torch.save({**plain.state_dict(), "extra": torch.zeros(1)}, files["plain"])
    for name, file in files.items():
        reasons = {other: get_format(other).reasons_against(open_source(file)) for other in format_names()}
        assert [other for other, against in reasons.items() if not against] == [
            "timm" if name == "plain" else f"swin/{name}"
        ]
        assert own <= set(reasons)
    for call, words in (
        (
            lambda: vitzoo.save(swin, tmp_path / "a.safetensors", format="timm"),
            "format='timm' is for plain ViTs, and this is 'swin/v1' (possible for it: vitzoo, swin/timm, swin/torchvision, swin/transformers)",
        ),
        (
            lambda: vitzoo.save(plain, tmp_path / "a.safetensors", format="swin/timm"),
            "format='swin/timm' is for the models swin/*, and this is a plain ViT",
        ),
        (
            lambda: vitzoo.create("vit_tiny", weights=files["torchvision"]),
            "are of the format 'swin/torchvision', which is for the models swin/*, not for the model that was named",
        ),
        (lambda: vitzoo.create("swin/v1", weights=files["plain"]), "are of the format 'timm', which is for plain ViTs"),
        (
            lambda: vitzoo.create("swin/v1", weights=files["timm"], format="timm"),
            "format='timm' is for plain ViTs, and this is 'swin/v1'",
        ),
        (
            lambda: vitzoo.load(files["timm"]),
            "do not tell all of their model; nothing was loaded: img_size: the tensors do not tell it",
        ),
        (
            lambda: vitzoo.create("swin/tiny", img_size=30),
            "no Swin Transformer has img_size=(30, 30), which does not divide into patches of (4, 4)",
        ),
        (
            lambda: swin(torch.zeros(1, 3, 34, 32)),
            "an image of 34x32 pixels does not divide into patches of (4, 4); 32x32 would",
        ),
        (
            lambda: vitzoo.create("swin/tiny", window=7),
            "a Swin Transformer has no setting 'window'. Did you mean 'window_size'?",
        ),
        (
            lambda: vitzoo.create("swin/tiny", window_size=(7, 7, 7)),
            "window_size=(7, 7, 7) has 3 entries, and there are 4 stages",
        ),
        (
            lambda: vitzoo.save(
                vitzoo.create("swin/v2", **TEST_CONFIG, pool="max", in_chans=1),
                tmp_path / "b.safetensors",
                format="swin/torchvision",
            ),
            "format 'swin/torchvision' has no place for this model: pool='max' (possible: 'avg')",
        ),
        (lambda: vitzoo.verify(files["torchvision"]), "of a plugin's own models; verify compares plain ViTs"),
    ):
        with pytest.raises(vitzoo.VitzooError, match=re.escape(words)):
            call()
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_command_converts_and_the_notes_say_what_was_done(tmp_path: Path) -> None:
    transformers_model(2, classes=3).save_pretrained(tmp_path / "theirs")
    arguments = ["convert", str(tmp_path / "theirs"), str(tmp_path / "ours.safetensors"), "--to", "swin/torchvision"]
    result = CliRunner().invoke(app_for(()), arguments)
    assert result.exit_code == 0, result.output
    assert "format swin/transformers" in result.output
    again = torchvision_model(2)
    again.head = nn.Linear(64, 3)
    again.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)


def test_what_the_manifest_says_is_complete_and_the_wheel_holds_it() -> None:
    code = "import sys, vitzoo_swin.manifest; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["vitzoo.plugins"]["swin"] == "vitzoo_swin.manifest:register"
    assert "plugins/vitzoo_swin" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    public = (root / "plugins/README.md").read_text()
    for file in (root / "plugins/vitzoo_swin").rglob("*.py"):
        for module in re.findall(r"^from (vitzoo\.[\w.]+) import", file.read_text(), flags=re.MULTILINE):
            assert f"`{module}`" in public, f"{file} imports {module}, which no page calls public"
    for entry in get_registry().entries("model"):
        if entry.provider == "swin":
            assert {"license", "paper", "arxiv", "test_config"} <= entry.meta.keys()
            assert entry.doc
    assert vitzoo.list_models("swin/tiny*", license="mit") == ["swin/tiny_patch4_window7_224"]
    small = vitzoo.create("swin/large", **get_entry("model", "swin/large").meta["test_config"])
    assert small(torch.randn(1, 3, 32, 32)).shape == (1, 10)
