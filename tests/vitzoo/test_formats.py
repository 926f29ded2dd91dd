"""Other libraries' weights, in and out: the same numbers as the library itself computes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from families import SMALL, small
from foreign import TWINS, Twin, image
from safetensors.torch import load_file, save_file
from timm_twins import error
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from typer.testing import CliRunner

import vitzoo
from vitzoo.cli.app import app_for
from vitzoo.errors import CheckpointError, PluginError, VitzooError
from vitzoo.preprocess import CLIP_MEAN, Preprocess
from vitzoo.registry import Entry, Registry
from vitzoo.weights.formats.base import Reading, Writing


# timm writes a licence beside every model, of random weights too.
@pytest.mark.filterwarnings("ignore::vitzoo.errors.LicenseWarning")
@pytest.mark.parametrize("name", TWINS)
@torch.inference_mode()
def test_weights_in_and_out_are_the_librarys_own_model(name: str, tmp_path: Path) -> None:
    twin = TWINS[name]
    theirs = twin.model()
    (tmp_path / "theirs").mkdir()
    ours = vitzoo.load(twin.save(theirs, tmp_path / "theirs"), dtype=torch.float64, **twin.told).eval()
    assert ours.load_report.format == twin.format
    assert_same(twin, ours, theirs)

    if twin.again is None:
        with pytest.raises(CheckpointError, match="is read, not written"):
            vitzoo.save(ours, tmp_path / "ours.safetensors", format=twin.format)
        return
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


def hf_folder(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """Return a twin of transformers and the directory that it was saved in."""
    theirs = TWINS[name].model()
    folder.mkdir(exist_ok=True)
    return theirs, TWINS[name].save(theirs, folder)


@pytest.mark.parametrize(
    "name", ["vit_logits", "deit_teacher", "dinov2_swiglu", "dinov2_reg", "dinov3_gated", "siglip"]
)
def test_names_in_memory_and_on_disk_are_one_model(name: str, tmp_path: Path) -> None:
    theirs, folder = hf_folder(name, tmp_path / "hf")
    on_disk = vitzoo.load(folder).state_dict()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    in_memory = vitzoo.load(folder).state_dict()
    assert on_disk.keys() == in_memory.keys()
    assert all(torch.equal(on_disk[key], in_memory[key]) for key in on_disk)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_logits", {"norm": ("layernorm", {"eps": 1e-12}), "mlp": "gelu", "num_classes": 5, "num_heads": 4}),
        ("vit_tanh_nobias", {"qkv_bias": False, "mlp": "gelu_tanh", "num_classes": 0}),
        ("deit_teacher", {"dist_token": True, "pool": "distilled"}),
        ("deit_one_head", {"dist_token": True, "pool": "token", "num_classes": 5}),
        ("dinov2_reg_swiglu", {"reg_tokens": 4, "no_embed_class": True, "mlp": "swiglu_packed", "norm": "layernorm"}),
        ("dinov2", {"init_values": 1.0, "mask_token": True, "pos_embed": ("learned", {"antialias": False})}),
        ("dinov3_k_bias", {"qkv_bias": True, "reg_tokens": 0, "rope": ("dinov3", {"temperature": 50.0})}),
        ("dinov3_gated", {"qkv_bias": "qv", "mlp": "swiglu", "norm": ("layernorm", {"eps": 1e-5}), "pool": "token"}),
        ("clip", {"pre_norm": True, "mlp": "quick_gelu", "num_classes": 24, "norm": ("layernorm", {"eps": 1e-5})}),
        ("siglip", {"class_token": False, "pool": "map", "mlp": "gelu_tanh"}),
        ("siglip_rest", {"img_size": 36, "patch_embed": ("conv", {"drop_rest": True})}),
        ("torchvision", {"pos_embed": ("learned", {"antialias": False, "align_corners": True}), "norm": "layernorm"}),
        ("open_clip_avg", {"pool": "avg", "fc_norm": True, "num_heads": 4}),
        ("own_dinov3_gated", {"num_heads": 2, "qkv_bias": "qv", "rope": "dinov3", "mlp": "swiglu", "pool": "token"}),
        ("jax_augreg", {"num_heads": 4, "mlp": "gelu_tanh", "pool": "token", "norm": "layernorm"}),
        ("jax_map", {"num_heads": 8, "class_token": False, "pool": "map"}),
        ("own_mae_finetuned", {"pool": "avg", "fc_norm": True, "num_classes": 5}),
    ],
)
def test_the_config_is_inferred_with_the_sources_switches(name: str, expected: dict, tmp_path: Path) -> None:
    config = vitzoo.load(TWINS[name].save(TWINS[name].model(), tmp_path), **TWINS[name].told).config
    assert config == config.with_changes(**expected)


@pytest.mark.parametrize("name", ["vit_logits", "dinov2", "dinov2_reg", "siglip", "clip", "torchvision", "timm_vit"])
@torch.inference_mode()
def test_positions_are_resized_as_the_source_resizes_them(name: str, tmp_path: Path) -> None:
    twin, limit = TWINS[name], 1e-10 if name in ("vit_logits", "siglip", "clip", "torchvision") else 1e-5
    theirs = twin.model()
    ours = vitzoo.load(twin.save(theirs, tmp_path), dtype=torch.float64, **twin.told).eval()
    x = image(48, 48)
    if name == "torchvision":
        larger = VisionTransformer(48, 8, 2, 4, 32, 48, num_classes=5).double().eval()
        larger.load_state_dict(interpolate_embeddings(48, 8, theirs.state_dict()))
        expected = larger(x)
    elif name == "timm_vit":
        theirs.set_input_size(img_size=48)
        expected = theirs(x)
    else:
        more = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
        result = theirs(x, **more)
        expected = next(result[key] for key in ("logits", "image_embeds", "pooler_output") if key in result)
    assert error(ours(x), expected) < limit


@pytest.mark.parametrize(
    ("switch", "changed"),
    [
        ("norm", {"norm": "layernorm"}),
        ("activation", {"mlp": "gelu_tanh"}),
        ("quick", {"mlp": "quick_gelu"}),
        ("pool", {"pool": "avg", "fc_norm": False}),
    ],
)
@torch.inference_mode()
def test_a_switch_of_another_source_would_be_seen(switch: str, changed: dict, tmp_path: Path) -> None:
    theirs, folder = hf_folder("vit_logits", tmp_path / "hf")
    ours = vitzoo.load(folder, dtype=torch.float64, **changed).eval()
    assert error(ours(image()), theirs(image()).logits) > 1e-6, switch


@torch.inference_mode()
def test_what_tensors_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    file = TWINS["torchvision"].save(TWINS["torchvision"].model(), tmp_path)
    with pytest.raises(CheckpointError, match="num_heads: the tensors do not tell it: give num_heads=.*divides 32"):
        vitzoo.load(file, format="torchvision")
    timm_file = tmp_path / "timm.safetensors"
    vitzoo.save(small("vit"), timm_file, format="timm")
    with pytest.raises(CheckpointError, match=r"timm's names do not tell it: name the model, vitzoo\.create\(name"):
        vitzoo.load(timm_file)
    told = vitzoo.load(timm_file, num_heads=2, norm="layernorm", mlp="gelu").eval()
    assert torch.equal(told(image().float()), small("vit")(image().float()))
    tower = TWINS["open_clip_quick"].model()
    bare = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    save_file(bare, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match="give mlp='quick_gelu'"):
        vitzoo.load(tmp_path / "clip.safetensors", num_heads=2)
    openai = {**bare, **{name: torch.tensor(32) for name in ("input_resolution", "context_length", "vocab_size")}}
    save_file(openai, tmp_path / "clip.safetensors")
    ours = vitzoo.load(tmp_path / "clip.safetensors", num_heads=2, dtype=torch.float64).eval()
    assert error(ours(image()), tower(image())) < 1e-10


@torch.inference_mode()
def test_a_file_without_config_json_has_its_familys_switches(tmp_path: Path) -> None:
    theirs, folder = hf_folder("vit_logits", tmp_path / "hf")
    ours = vitzoo.load(folder / "model.safetensors", num_heads=4, dtype=torch.float64).eval()
    assert error(ours(image()), theirs(image()).logits) < 1e-10
    assert "norm eps=1e-12 and the activation gelu" in [note.what for note in ours.load_report.of("set")]


@torch.inference_mode()
def test_a_named_model_takes_the_switches_of_the_weights_unless_told(tmp_path: Path) -> None:
    theirs, folder = hf_folder("vit_logits", tmp_path / "hf")
    named = {**SMALL, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 1.5}
    ours = vitzoo.create("vit_tiny", weights=folder, dtype=torch.float64, **named).eval()
    assert error(ours(image()), theirs(image()).logits) < 1e-10
    assert "norm=layernorm(eps=1e-12)" in [note.what for note in ours.load_report.of("set")]
    kept = vitzoo.create("vit_tiny", weights=folder, norm=("layernorm", {"eps": 1e-3}), **named)
    assert kept.config.norm.args["eps"] == 1e-3
    with pytest.raises(CheckpointError, match=r"have num_heads=4, and the model has 2.*the numbers would be wrong"):
        vitzoo.create("vit_tiny", weights=folder, **{**named, "num_heads": 2})


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("torchvision", {"qkv_fused": False}),
        ("vit_logits", {"qkv_fused": False}),
        ("dinov3_gated", {"qkv_bias": True}),
        ("dinov3_gated", {"qkv_fused": False}),
        ("dinov3_gated", {"mlp": "swiglu_packed"}),
        ("dinov2_swiglu", {"mlp": "swiglu"}),
    ],
)
@torch.inference_mode()
def test_other_forms_of_the_same_numbers(name: str, form: dict, tmp_path: Path) -> None:
    twin = TWINS[name]
    theirs = twin.model()
    source = twin.save(theirs, tmp_path)
    ours = vitzoo.load(source, dtype=torch.float64, **{**twin.told, **form}).eval()
    assert any(note.what.startswith("blocks.*") for note in ours.load_report.of("converted"))
    assert_same(twin, ours, theirs)


def test_a_bias_that_has_no_place_is_an_error_unless_it_is_0(tmp_path: Path) -> None:
    theirs, folder = hf_folder("dinov3", tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"q_proj\.bias is not 0, and the model has qkv_bias=False"):
        vitzoo.load(folder, qkv_bias=False)
    for name, parameter in theirs.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):
            torch.nn.init.zeros_(parameter)
    theirs.save_pretrained(folder)
    for fused in (True, False):
        ours = vitzoo.load(folder, qkv_bias=False, qkv_fused=fused, dtype=torch.float64).eval()
        with torch.inference_mode():
            assert error(ours(image()), theirs(image()).pooler_output) < 1e-6


def test_the_class_position_is_folded_where_registers_have_none(tmp_path: Path) -> None:
    theirs, folder = hf_folder("dinov2_reg", tmp_path / "hf")
    ours = vitzoo.load(folder, dtype=torch.float64)
    both = theirs.embeddings.cls_token + theirs.embeddings.position_embeddings[:, :1]
    assert torch.equal(ours.cls_token, both)
    assert ours.load_report.of("folded")[0].what == "pos_embed[:, 0]"


@torch.inference_mode()
def test_a_small_table_of_dinov2_with_registers_is_of_patches_alone(tmp_path: Path) -> None:
    ours, file = small("dinov2_reg", num_classes=0, img_size=16, reg_tokens=2), tmp_path / "out.safetensors"
    vitzoo.save(ours, file, format="dinov2")
    again = vitzoo.load(file, num_heads=2).eval()
    assert again.config.img_size == (16, 16)
    assert torch.allclose(again(torch.ones(1, 3, 16, 16)), ours(torch.ones(1, 3, 16, 16)), atol=1e-5)


def test_sizes_change_on_loading_as_set_input_size_changes_them(tmp_path: Path) -> None:
    _, folder = hf_folder("vit_logits", tmp_path / "hf")
    for change in ({"img_size": (48, 64)}, {"patch_size": 16}, {"img_size": 48, "patch_size": 12}):
        resized = vitzoo.load(folder, dtype=torch.float64, **change)
        expected = vitzoo.load(folder, dtype=torch.float64)
        expected.set_input_size(**change)
        state = expected.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in resized.state_dict().items())
        assert resized.load_report.of("resized")
    grey = image()[:, :1].float()
    one, five = vitzoo.load(folder, in_chans=1).eval(), vitzoo.load(folder, in_chans=6).eval()
    torch.testing.assert_close(one(grey), vitzoo.load(folder).eval()(grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(one(grey), five(grey.expand(-1, 6, -1, -1)))
    with pytest.raises(CheckpointError, match="Only sizes differ: pass img_size=, patch_size= or in_chans="):
        vitzoo.create(vitzoo.load(folder).config.with_changes(patch_size=4), weights=folder)


def test_a_head_of_other_classes_is_drawn_anew_when_the_caller_names_it(tmp_path: Path) -> None:
    _, folder = hf_folder("deit_teacher", tmp_path / "hf")
    with pytest.raises(CheckpointError, match="Only the head differs: pass reset='head'"):
        vitzoo.load(folder, num_classes=7)
    ours = vitzoo.load(folder, num_classes=7, reset="head").eval()
    assert ours(image().float()).shape == (2, 7)
    assert ours.head_dist.weight.std() < 0.03
    assert "drawn anew for 7 classes, the source's was (5, 32)" in ours.load_report.of("reset")[0].why
    features = vitzoo.load(folder, num_classes=0, pool="token", reset=("head",))
    assert features(image().float()).shape == (2, 32)
    with pytest.raises(CheckpointError, match=r"reset='neck' is unknown \(possible: 'head'\)"):
        vitzoo.load(folder, reset="neck")


def test_the_report_says_what_was_read_and_done(tmp_path: Path) -> None:
    _, folder = hf_folder("dinov2_reg_swiglu", tmp_path / "hf")
    report = vitzoo.load(folder, img_size=48).load_report
    text = str(report)
    assert text.startswith(f"{report.tensors} tensors from {folder}, format transformers\n  read {folder}/model.safe")
    for line in ("converted blocks.*.attn.qkv: three projections in one", "folded pos_embed[:, 0]: into cls_token"):
        assert line in text
    assert "resized pos_embed: a grid of 4x4 to 6x6, bicubic, with antialiasing" in text
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads(json.dumps(report.to_dict()))["files"][0]["sha256"] == digest
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="has changed since it was read"):
        report.to_dict()


def test_the_format_is_detected_or_the_error_says_why(tmp_path: Path, registry: Registry) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        vitzoo.load(tmp_path / "a.safetensors")
    for words in ("of no format that vitzoo knows; nothing was loaded", "torchvision: no encoder.layers", "mae: no"):
        assert words in str(caught.value)
    with pytest.raises(VitzooError, match="unknown weights 'torchvison'. Did you mean 'torchvision'?"):
        vitzoo.load(tmp_path / "a.safetensors", format="torchvison")
    for name in ("transformers", "torchvision", "open_clip", "dinov2", "mae"):
        with pytest.raises(CheckpointError):
            vitzoo.load(tmp_path / "a.safetensors", format=name)

    @vitzoo.register("weights", "acme/prefixed")
    class Prefixed:
        """Every name of vitzoo's behind a word of its own."""

        def reasons_against(self, source):
            return [] if any(name.startswith(("acme.", "class_token")) for name in source.state) else ["no acme."]

        def read(self, source, hints):
            return Reading(state={name.removeprefix("acme."): tensor for name, tensor in source.state.items()})

        def write(self, state, config, preprocess):
            return Writing(state={f"acme.{name}": tensor for name, tensor in state.items()})

    # A format that cannot be imported is asked nothing, and stops nobody who has other weights.
    registry.add(Entry(kind="weights", name="broken/gone", provider="broken", target="broken_parts:Gone"))
    gone = "broken/gone: cannot be asked: weights 'broken/gone' is registered by 'broken' .* cannot be imported"
    with pytest.raises(CheckpointError, match=gone):
        vitzoo.load(tmp_path / "a.safetensors")
    with pytest.raises(PluginError, match="cannot be imported"):
        vitzoo.load(tmp_path / "a.safetensors", format="broken/gone")

    model = small("vit")
    vitzoo.save(model, tmp_path / "b.safetensors", format="acme/prefixed")
    again = vitzoo.create("vit_tiny", weights=tmp_path / "b.safetensors", **SMALL).eval()
    assert again.load_report.format == "acme/prefixed"
    assert torch.equal(again(image().float()), model(image().float()))
    file = TWINS["torchvision"].save(TWINS["torchvision"].model(), tmp_path)
    with pytest.raises(CheckpointError, match="could be of the formats acme/prefixed and torchvision.*format='acme"):
        vitzoo.load(file, num_heads=4)


def shard(folder: Path, *, kind: str = "") -> None:
    """Split model.safetensors into two shards and their index; `kind` says what is wrong with them."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in (0, 1)}
    for file, own in files.items():
        save_file({name: state[name] for name in own}, folder / file)
    index = {name: file for file, own in files.items() for name in own}
    if kind == "outside":
        index[names[0]] = "../secret.safetensors"
    elif kind == "missing":
        (folder / "model-00002-of-00002.safetensors").unlink()
    elif kind == "promised":
        index["more.weight"] = index[names[0]]
    (folder / "model.safetensors.index.json").write_text(json.dumps({} if kind == "empty" else {"weight_map": index}))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    _, folder = hf_folder("vit_logits", tmp_path / "hf")
    whole = vitzoo.load(folder)
    shard(folder)
    sharded = vitzoo.load(folder)
    assert len(sharded.load_report.files) == 2
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in sharded.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "outside",
            r"names the shard '\.\./secret\.safetensors'; a shard is a \.safetensors file in the same directory",
        ),
        ("missing", r"names the shard 'model-00002-of-00002\.safetensors', which is not in"),
        ("promised", r"they lack \['more\.weight'\]"),
        ("empty", "has no 'weight_map' from tensors to shards"),
    ],
)
def test_shards_that_do_not_fit_their_index_say_so(kind: str, words: str, tmp_path: Path) -> None:
    _, folder = hf_folder("vit_logits", tmp_path / "hf")
    shard(folder, kind=kind)
    with pytest.raises(CheckpointError, match=words):
        vitzoo.load(folder)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
@torch.inference_mode()
def test_a_file_for_timm_has_no_mask_token(name: str, tmp_path: Path) -> None:
    _, folder = hf_folder(name, tmp_path / "hf")
    ours, file = vitzoo.load(folder).eval(), tmp_path / "timm.safetensors"
    notes = vitzoo.save(ours, file, format="timm")
    assert [str(note) for note in notes] == ["dropped mask_token: timm has none"]
    again = vitzoo.create("vit_tiny", weights=file, **{**ours.config.to_dict(), "mask_token": False}).eval()
    assert torch.equal(again(image().float()), ours(image().float()))


@pytest.mark.parametrize(
    ("format", "family", "changes", "words"),
    [
        (
            "torchvision",
            "vit",
            {"norm": ("layernorm", {"eps": 1e-12})},
            r"norm=layernorm\(eps=1e-12\) \(possible: eps 1e-6",
        ),
        ("torchvision", "deit3", {}, r"no_embed_class=True \(possible: False\); init_values=0.1"),
        ("transformers", "cifar", {}, r"block=post_norm \(possible: 'pre_norm'\)"),
        ("transformers", "clip", {}, "head.bias is not 0, and the projection of CLIP has none"),
        ("open_clip", "vit", {}, r"pre_norm=False \(possible: True\)"),
        ("open_clip", "clip", {"num_classes": 0}, r"num_classes=0 \(possible: 1 and more\)"),
        ("dinov2", "vit", {"num_classes": 0}, "init_values=None: it has LayerScale"),
        ("mae", "vit", {"mlp": "gelu_tanh"}, r"mlp=gelu_tanh \(possible: 'gelu'\)"),
        ("mae", "rope_axial", {}, "rope=axial"),
        ("mae", "vit", {"img_size": (32, 64)}, r"img_size=\(32, 64\) is not a square"),
        ("mae", "vit", {"pool": "avg", "pool_include_prefix": True}, r"pool_include_prefix=True \(possible: False\)"),
        ("mae", "vit", {"patch_embed": ("conv", {"use_norm": True})}, r"conv\(use_norm=True\): use_norm has no place"),
        ("dinov2", "dinov2_reg", {"num_classes": 0, "patch_size": (8, 4)}, r"patch_size=\(8, 4\) is not a square"),
        ("torchvision", "vit", {"patch_embed": ("conv", {"stride": 4})}, r"conv\(stride=4\): stride has no place"),
        (
            "torchvision",
            "vit",
            {"patch_embed": ("conv", {"drop_rest": True}), "img_size": 36},
            "drop_rest has no place",
        ),
        ("transformers", "vit", {"dynamic_img_pad": True, "img_size": 36}, r"img_size=\(36, 36\) is padded to whole"),
        ("transformers", "deit_distilled", {"num_classes": 0}, r"pool=distilled \(possible: 'token'\)"),
    ],
)
def test_a_format_without_a_place_for_the_model_says_so(
    format: str, family: str, changes: dict, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"format '{format}' has no place for this model: .*{words}"):
        vitzoo.save(small(family, **changes), tmp_path / "out.safetensors", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_kind_of_transformers_is_refused(tmp_path: Path) -> None:
    _, folder = hf_folder("dinov3_gated", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"hidden_act": "gelu"}, "hidden_act='gelu' in a gated MLP has no part in vitzoo"),
        ({"model_type": "bert"}, "transformers: model_type 'bert' is not one of vit, deit"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=words):
            vitzoo.load(folder)


def test_images_are_prepared_as_the_source_says(tmp_path: Path) -> None:
    _, folder = hf_folder("clip", tmp_path / "hf")
    assert vitzoo.load(folder).preprocess.mean == CLIP_MEAN
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"shortest_edge": 40}, "resample": 3}
    images |= {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    ours = vitzoo.load(folder)
    assert ours.preprocess == Preprocess(mean=(0.1, 0.2, 0.3), std=(1, 1, 1), crop_pct=0.8)
    vitzoo.save(ours, tmp_path / "out", format="transformers")
    assert vitzoo.load(tmp_path / "out").preprocess == ours.preprocess
    vitzoo.save(ours, tmp_path / "own")
    assert vitzoo.load(tmp_path / "own").preprocess == ours.preprocess


def test_the_command_converts_and_says_what_it_did(tmp_path: Path) -> None:
    theirs, folder = hf_folder("dinov2_reg", tmp_path / "hf")
    run = CliRunner().invoke(app_for(()), ["convert", str(folder), str(tmp_path / "own.safetensors"), "--to", "dinov2"])
    assert run.exit_code == 0, run.output
    assert "format transformers" in run.stdout
    assert "added pos_embed[:, 0]: zeros; the class token holds its position" in run.stdout
    there = ["convert", str(tmp_path / "own.safetensors"), str(tmp_path / "back"), "--to", "transformers", "--json"]
    run = CliRunner().invoke(app_for(()), [*there, "--set", "num_heads=4"])
    assert json.loads(run.stdout)["read"]["format"] == "dinov2"
    again = type(theirs).from_pretrained(tmp_path / "back", dtype=torch.float64).eval()
    with torch.inference_mode():
        # Written in float32, torch's default.
        assert error(again(image()).pooler_output, theirs(image()).pooler_output) < 1e-5
    run = CliRunner().invoke(app_for(()), [*there, "--set", "num_heads"])
    assert "--set 'num_heads' is not name=value" in str(run.exception)
