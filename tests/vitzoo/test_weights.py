"""Weights in and out: all of them or none, and nothing is ever run from a file."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import SMALL, small
from safetensors.torch import load_file, save_file
from torch import Tensor

import vitzoo
from vitzoo.errors import CheckpointError, UnsafeFileError
from vitzoo.files import written_whole
from vitzoo.preprocess import IMAGENET_MEAN, Preprocess


def images() -> Tensor:
    """Return two random images."""
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "hybrid", "sbb_parallel"])
def test_a_saved_model_is_loaded_in_another_process_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = small(family)
    model.preprocess = Preprocess(mean=IMAGENET_MEAN, crop_pct=1.0)
    vitzoo.save(model, tmp_path / "model")
    torch.save(images(), tmp_path / "images.pt")
    code = (
        "import sys, torch, vitzoo\n"
        "model = vitzoo.load(sys.argv[1] + '/model').eval()\n"
        "image = torch.load(sys.argv[1] + '/images.pt', weights_only=True)\n"
        "torch.save(model(image).detach(), sys.argv[1] + '/logits.pt')\n"
        "print(model.preprocess.mean, model.preprocess.crop_pct)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), model(images()))
    assert done.stdout.split() == ["(0.485,", "0.456,", "0.406)", "1.0"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_the_backend_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    vitzoo.save(small("vit", attn="reference"), tmp_path / "model")
    assert "reference" not in (tmp_path / "model/config.json").read_text()
    assert vitzoo.load(tmp_path / "model", attn="sdpa").builder.attend.choice == "sdpa"


def test_creating_with_a_file_a_directory_and_a_dtype(tmp_path: Path) -> None:
    model = small("vit")
    vitzoo.save(model, tmp_path / "model")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    for source in ("model", "weights.safetensors", "weights.pth"):
        again = vitzoo.create("vit_tiny", weights=str(tmp_path / source), **SMALL).eval()
        assert torch.equal(again(images()), model(images()))
        assert all(parameter.requires_grad for parameter in again.parameters())
    half = vitzoo.load(tmp_path / "model", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_a_hub_repository_is_read_from_a_prepared_cache(tmp_path: Path) -> None:
    model = small("vit")
    repository, commit = tmp_path / "hub/models--acme--tiny", "0123abcd" * 5
    vitzoo.save(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    torch.save(images(), tmp_path / "images.pt")
    code = (
        "import sys, torch, vitzoo\n"
        "image = torch.load(sys.argv[1], weights_only=True)\n"
        "for revision in ('', '@main', '@' + sys.argv[2]):\n"
        "    model = vitzoo.load('hf-hub:acme/tiny' + revision).eval()\n"
        "    print(model(image).sum().item())\n"
        "    assert model.load_report.revision == sys.argv[2], model.load_report\n"
        "try:\n"
        "    vitzoo.load('hf-hub:acme/other')\n"
        "except vitzoo.VitzooError as error:\n"
        "    print(str(error).split(':')[0])\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "images.pt"), commit],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    *sums, refusal = done.stdout.splitlines()
    assert {float(line) for line in sums} == {model(images()).sum().item()}
    assert refusal == "cannot get 'acme/other' from the hub"


def test_timms_names_out_and_in_again(tmp_path: Path) -> None:
    model = small("dinov3")
    vitzoo.save(model, tmp_path / "timm.safetensors", format="timm")
    names = set(load_file(tmp_path / "timm.safetensors"))
    assert {"blocks.0.gamma_1", "blocks.0.attn.q_bias", "blocks.1.mlp.fc1_g.weight"} <= names
    assert not any("ls1" in name for name in names)
    again = vitzoo.create(model.config, weights=str(tmp_path / "timm.safetensors")).eval()
    assert torch.equal(again(images()), model(images()))
    with pytest.raises(CheckpointError, match=r"format='timm' writes one \.safetensors file"):
        vitzoo.save(model, tmp_path / "directory", format="timm")
    with pytest.raises(
        CheckpointError,
        match=r"unknown format 'onnx' \(possible: vitzoo, dinov2, dinov3, jax, mae, open_clip, (swin/\w+, )*timm",
    ):
        vitzoo.save(model, tmp_path / "x", format="onnx")


def damaged(kind: str, folder: Path) -> Path:
    """Write weights that no model should take."""
    state = small("vit").state_dict()
    file = folder / "weights.safetensors"
    if kind == "wrong":
        del state["norm.bias"], state["cls_token"]
        state["extra"] = torch.zeros(1)
        state["head.weight"] = torch.zeros(9, 64)
    elif kind == "head":
        state["head.weight"], state["head.bias"] = torch.zeros(9, 64), torch.zeros(9)
    elif kind == "size":
        state["pos_embed"] = torch.zeros(1, 7, 64)
    save_file(state, file)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "text":
        file.write_text("not a checkpoint")
    elif kind == "suffix":
        return file.rename(folder / "weights.xyz")
    elif kind.startswith("torch"):
        file = folder / "weights.pth"
        if kind in ("torch_meta", "torch_sparse"):
            head = state["head.weight"]
            state["head.weight"] = head.to("meta") if kind == "torch_meta" else head.to_sparse()
        torch.save(torch.zeros(3) if kind == "torch_tensor" else state, file)
        if kind == "torch_truncated":
            file.write_bytes(file.read_bytes()[:1000])
        elif kind == "torch_html":
            file.write_text("<html>404")
    elif kind == "npz_text":
        return file.rename(folder / "weights.npz")
    elif kind == "missing":
        return folder / "nothing.safetensors"
    return file


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong", ["nothing was loaded", "missing (2): cls_token; norm.bias", "unexpected (1): extra"]),
        ("wrong", ["mismatched (1): head.weight (9, 64), the model has (5, 64)"]),
        ("head", ["Only the head differs: pass reset='head' to draw a new one, or create the model with"]),
        (
            "size",
            ["Only sizes differ: pass img_size=, patch_size= or in_chans= to have the weights resized to them"],
        ),
        ("truncated", ["is damaged or not a safetensors file"]),
        ("text", ["is damaged or not a safetensors file"]),
        (
            "suffix",
            ["is no file of weights that vitzoo reads (possible: .safetensors, .pth, .pt, .bin, .ckpt, .pth.tar"],
        ),
        ("torch_truncated", ["is damaged or not a file that torch.save wrote"]),
        ("torch_html", ["is damaged or not a file that torch.save wrote"]),
        ("torch_meta", ["holds 'head.weight' without its numbers (meta); save it again as a plain tensor"]),
        ("torch_sparse", ["holds 'head.weight' in the layout torch.sparse_coo; save it again as a plain tensor"]),
        ("torch_tensor", ["holds no tensors by name, so it is not a checkpoint"]),
        ("npz_text", ["is damaged or not an .npz file of arrays"]),
        ("missing", ["there is no file or directory"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_do_not_fit_say_so(kind: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        vitzoo.create("vit_tiny", weights=str(damaged(kind, tmp_path)), **SMALL)
    for word in words:
        assert word in str(caught.value)


class Trap:
    """Unpickling this runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["torch", "pickle", "npz"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(how: str, tmp_path: Path) -> None:
    file, marker = tmp_path / "weights.pth", tmp_path / "ran"
    if how == "torch":
        torch.save({"state_dict": Trap(marker)}, file)
    elif how == "npz":
        file = tmp_path / "weights.npz"
        np.savez(file, state_dict=np.array([Trap(marker)], dtype=object))
    else:
        file.write_bytes(pickle.dumps({"state_dict": Trap(marker)}))
    with pytest.raises(UnsafeFileError, match="holds Python objects, not tensors alone; reading them would run code"):
        vitzoo.create("vit_tiny", weights=str(file), **SMALL)
    assert not marker.exists()


def test_a_directory_without_its_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        vitzoo.create("vit_tiny", weights=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no config\.json; for a file of weights alone"):
        vitzoo.load(tmp_path)


def test_a_model_of_strangers_cannot_be_saved_halfway(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Linear was not made by vitzoo\.create"):
        vitzoo.save(torch.nn.Linear(2, 2), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_is_the_weights_alone(tmp_path: Path) -> None:
    model = small("vit")
    vitzoo.save(model, tmp_path / "mine.safetensors")
    assert load_file(tmp_path / "mine.safetensors").keys() == model.state_dict().keys()


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    swapped, tied = small("vit"), small("vit")
    swapped.head = torch.nn.Linear(64, 9)
    tied.blocks[0].norm2.weight = tied.blocks[0].norm1.weight
    for model, words in (
        (swapped, r"head\.weight is \(9, 64\), and the model's config says \(5, 64\) \(2 such .*reset_classifier"),
        (tied, r"norm1\.weight and blocks\.0\.norm2\.weight are one tensor"),
        (small("vit").to("meta"), "on the meta device and has no numbers to save"),
    ):
        with pytest.raises(CheckpointError, match=words):
            vitzoo.save(model, tmp_path / "model")
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("first", "second"), [("vitzoo", "open_clip"), ("open_clip", "vitzoo")])
def test_two_layouts_do_not_share_a_directory(first: str, second: str, tmp_path: Path) -> None:
    model = small("clip")
    torch.nn.init.zeros_(model.head.bias)
    vitzoo.save(model, tmp_path / "model", format=first)
    with pytest.raises(CheckpointError, match=r"holds .*, of another checkpoint, .*remove it, or save to another"):
        vitzoo.save(model, tmp_path / "model", format=second)
    assert torch.equal(vitzoo.load(tmp_path / "model").norm.weight, model.norm.weight)


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(file) as draft:
        draft.write_text("half of the n")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_checkpoint_names_what_to_install(tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    file = tmp_path / "model/config.json"
    content = json.loads(file.read_text())
    content["config"]["norm"] = "acme/fast"
    content["requires"] = {"acme": {"distribution": "acme-norms", "version": "1.1"}}
    file.write_text(json.dumps(content))
    with pytest.raises(
        vitzoo.VitzooError, match="needs plugin 'acme', which is not installed: pip install acme-norms==1.1"
    ):
        vitzoo.load(tmp_path / "model")
