"""The parity certificate: equal where the numbers are, different where they are not, and honest about the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import SMALL, small
from foreign import TWINS
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import vitzoo
from vitzoo.cli.app import app_for
from vitzoo.errors import CheckpointError, InputError, MissingPackageError
from vitzoo.parity import libraries
from vitzoo.weights.formats import torchvision

runner = CliRunner(env={"COLUMNS": "200"})


def saved(name: str, folder: Path) -> tuple[Path, dict]:
    """Write a twin its library's own way; return what vitzoo is to read, and what the files do not tell."""
    folder.mkdir(parents=True, exist_ok=True)
    twin = TWINS[name]
    return twin.save(twin.model(), folder), twin.told


# timm states a licence in the config of its DINOv3.
@pytest.mark.filterwarnings("ignore::vitzoo.LicenseWarning")
@pytest.mark.parametrize("name", [name for name, twin in TWINS.items() if twin.format in libraries.LIBRARIES])
def test_a_certificate_says_equal_where_the_library_computes_the_same(name: str, tmp_path: Path) -> None:
    path, told = saved(name, tmp_path)
    certificate = vitzoo.verify(path, **told)
    assert certificate.equal, certificate.comparisons
    assert certificate.tolerance == TWINS[name].limit
    assert certificate.reference["reader"].startswith(TWINS[name].format)
    assert all(row.mean_abs <= row.max_abs for row in certificate.comparisons)


@pytest.mark.parametrize("pooler", [True, False])
def test_the_tanh_pooler_of_transformers_is_not_compared(pooler: bool, tmp_path: Path) -> None:
    import transformers as hf

    config = hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8)
    hf.ViTModel(config, add_pooling_layer=pooler).save_pretrained(tmp_path)
    certificate = vitzoo.verify(tmp_path)
    assert [row.output for row in certificate.comparisons] == ["tokens"]
    assert certificate.equal


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_image_tower_of_two_is_compared(kind: str, tmp_path: Path) -> None:
    import transformers as hf

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    vision = {**size, "image_size": 32, "patch_size": 8}
    text = {**size, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    config = getattr(hf, f"{kind}Config")(vision_config=vision, text_config=text)
    getattr(hf, f"{kind}Model")(config).save_pretrained(tmp_path)
    assert vitzoo.verify(tmp_path).equal


def swap(file: Path, first: str, second: str) -> None:
    """Exchange two tensors of one shape in a file."""
    state = load_file(file)
    assert state[first].shape == state[second].shape
    state[first], state[second] = state[second], state[first]
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("blocks.0.norm1.weight", "blocks.0.norm2.weight"),
        ("blocks.0.attn.proj.weight", "blocks.1.attn.proj.weight"),
        ("blocks.1.mlp.fc2.bias", "norm.bias"),
    ],
)
def test_swapped_tensors_of_equal_shape_are_caught_against_the_original(
    first: str, second: str, tmp_path: Path
) -> None:
    original, told = saved("torchvision", tmp_path / "theirs")
    converted = tmp_path / "converted.safetensors"
    vitzoo.save(vitzoo.load(original, dtype=torch.float64, **told), converted, format="timm")
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    settings |= {"mlp_ratio": 1.5, "num_classes": 5}
    both = {"model": "vit_tiny_patch16_224", "against": original, **settings}
    certificate = vitzoo.verify(converted, **both)
    assert [row.reader for row in certificate.comparisons] == ["vitzoo", "timm vit_tiny_patch16_224"]
    assert certificate.equal
    swap(converted, first, second)
    certificate = vitzoo.verify(converted, **both)
    assert [row.equal for row in certificate.comparisons] == [False, False]
    assert min(row.max_rel for row in certificate.comparisons) > 1e-4
    # Alone the file is read the same by both, as the certificate says.
    alone = vitzoo.verify(converted, model="vit_tiny_patch16_224", **settings)
    assert alone.equal
    assert any("both readers read the same bytes" in line for line in alone.unseen)


def test_a_mistake_in_a_reader_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = saved("torchvision", tmp_path)
    inner = torchvision.NAMES.inner
    wrong = {**inner, "norm1": inner["norm2"], "norm2": inner["norm1"]}
    monkeypatch.setattr(torchvision, "NAMES", replace(torchvision.NAMES, inner=wrong))
    assert not vitzoo.verify(path, **told).equal


def test_another_eps_is_caught(tmp_path: Path) -> None:
    path, _ = saved("vit_logits", tmp_path)
    assert not vitzoo.verify(path, norm=("layernorm", {"eps": 1e-6})).equal


def test_weights_that_hold_nan_are_never_equal(tmp_path: Path) -> None:
    path, _ = saved("vit_logits", tmp_path)
    state = load_file(path / "model.safetensors")
    state["vit.layernorm.bias"][0] = float("nan")
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    certificate = vitzoo.verify(path)
    assert not certificate.equal
    assert json.loads(json.dumps(certificate.to_dict(), allow_nan=False))["verdict"] == "different"


def test_without_a_library_the_error_says_what_can_be_checked(tmp_path: Path) -> None:
    path, told = saved("own_dinov2_reg", tmp_path / "own")
    with pytest.raises(CheckpointError) as caught:
        vitzoo.verify(path, **told)
    own = "of the format 'dinov2', which has no library of its own to compare with, but timm reads it when asked to: --with"
    for words in (own, f"vitzoo verify CONVERTED --against {path}"):
        assert words in str(caught.value)
    converted = tmp_path / "converted"
    vitzoo.save(vitzoo.load(path, dtype=torch.float64, **told), converted, format="transformers")
    certificate = vitzoo.verify(converted, against=path, **told)
    assert certificate.equal
    assert certificate.reference["reader"] == f"vitzoo, from {path}"
    assert [row.reader.split()[0] for row in certificate.comparisons] == ["vitzoo", "vitzoo", *["transformers"] * 2]
    assert any("a mistake in reading the format 'dinov2'" in line for line in certificate.unseen)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("own_dinov2", "vit_small_patch14_dinov2"),
        ("own_dinov3", "vit_small_patch16_dinov3_qkvb"),
        ("own_mae_encoder", "vit_base_patch16_224"),
    ],
)
def test_timm_reads_other_layouts_when_asked_to(name: str, model: str, tmp_path: Path) -> None:
    path, told = saved(name, tmp_path)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
    size["num_classes"] = 0
    certificate = vitzoo.verify(path, library="timm", model=model, **{**told, **size})
    assert certificate.equal, certificate.comparisons
    assert certificate.reference["reader"] == f"timm {model}"
    assert any("neither is the authors' code" in line for line in certificate.unseen)
    assert "out" in {row.output for row in certificate.comparisons} or name == "own_dinov3"
    with pytest.raises(CheckpointError, match="into a model that is named: --model"):
        vitzoo.verify(path, library="timm", **{**told, **size})
    with pytest.raises(CheckpointError, match=r"torchvision does not read .*\(it reads: torchvision\)"):
        vitzoo.verify(path, library="torchvision", **told)
    with pytest.raises(InputError, match="library='keras' is unknown"):
        vitzoo.verify(path, library="keras", **told)


def test_vitzoos_own_directories_are_compared_with_what_they_were_made_from(tmp_path: Path) -> None:
    original, _ = saved("vit_logits", tmp_path / "theirs")
    vitzoo.save(vitzoo.load(original, dtype=torch.float64), tmp_path / "own")
    with pytest.raises(CheckpointError, match="in vitzoo's own format, which no other library reads: say what it was"):
        vitzoo.verify(tmp_path / "own")
    assert vitzoo.verify(tmp_path / "own", against=original).equal
    vitzoo.save(small("vit", embed_dim=32, num_classes=3), tmp_path / "other")
    with pytest.raises(CheckpointError, match="these are not the same model"):
        vitzoo.verify(tmp_path / "other", against=original)


def test_what_cannot_be_verified_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved("vit_logits", tmp_path / "theirs")
    with pytest.raises(InputError, match="dtype=torch.float16 .*possible: float64, float32"):
        vitzoo.verify(path, dtype=torch.float16)
    with pytest.raises(InputError, match="tolerance=0"):
        vitzoo.verify(path, tolerance=0)
    vitzoo.save(small("vit"), tmp_path / "timm.safetensors", format="timm")
    with pytest.raises(CheckpointError, match="timm's names do not tell it"):
        vitzoo.verify(tmp_path / "timm.safetensors")
    with pytest.raises(CheckpointError, match="timm does not load .* unexpected keyword argument 'qkv_fused'"):
        vitzoo.verify(tmp_path / "timm.safetensors", model="vit_tiny", **SMALL, qkv_fused=False)
    bare = path / "model.safetensors"
    with pytest.raises(CheckpointError, match="transformers needs a directory whose config.json names one of its"):
        vitzoo.verify(bare, num_heads=4)
    monkeypatch.setattr(libraries, "installed_version", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"transformers is not installed: pip install transformers"):
        vitzoo.verify(path)


def test_the_command_prints_a_table_writes_json_and_exits_with_one(tmp_path: Path) -> None:
    path, _ = saved("dinov2_reg", tmp_path / "theirs")
    done = runner.invoke(app_for(()), ["verify", str(path), "--out", str(tmp_path / "certificate.json")])
    assert done.exit_code == 0, done.output
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    for words in (digest, "transformers Dinov2WithRegistersModel", "tokens", "equal (max rel at most 1e-10: rounding"):
        assert words in done.stdout, words
    assert "This does not show:" in done.stdout
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert written["verdict"] == "equal"
    assert written["checkpoint"]["files"][0]["sha256"] == digest
    assert {"vitzoo", "torch", "transformers", "python"} <= set(written["versions"])
    assert written["config"]["reg_tokens"] == 4
    assert {row["output"] for row in written["comparisons"]} == {"out", "tokens"}

    done = runner.invoke(app_for(()), ["verify", str(path), "--json", "--tolerance", "1e-30"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["verdict"] == "different"
    done = runner.invoke(app_for(()), ["verify", str(path), "--set", 'norm={"name":"layernorm","args":{"eps":0.1}}'])
    assert done.exit_code == 1
    assert "different (max rel at most 1e-10" in done.stdout


def test_float32_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    path, _ = saved("siglip", tmp_path)
    certificate = vitzoo.verify(path, dtype=torch.float32)
    assert certificate.equal
    assert certificate.tolerance == 1e-5
    assert any("another eps" in line for line in certificate.unseen)
    assert max(row.max_rel for row in certificate.comparisons) > 1e-10
