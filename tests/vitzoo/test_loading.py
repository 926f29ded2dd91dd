"""What loading costs, and what becomes of a model whose file is written again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import SMALL, small
from foreign import TWINS
from safetensors.torch import save_file

import vitzoo
from vitzoo.errors import CheckpointError, ConfigError
from vitzoo.preprocess import CLIP_MEAN, Preprocess
from vitzoo.weights import pages

PEAK = """
import sys
from pathlib import Path
import torch, vitzoo

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))

def load(folder):
    file = folder / "timm.safetensors"
    if file.exists():
        return vitzoo.create("vit_tiny", weights=file, embed_dim=1024, depth=4, num_heads=16)
    return vitzoo.load(folder)

vitzoo.load(sys.argv[2])  # imports what is imported at first use
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
parameters = list(load(Path(sys.argv[1])).parameters())
for parameter in parameters:
    parameter.sum().item()
print((resident("VmHWM") - before) / sum(parameter.nbytes for parameter in parameters))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of resident memory from Linux")
@pytest.mark.parametrize("layout", ["vitzoo", "timm", "transformers"])
def test_loading_takes_the_memory_of_the_weights_once(layout: str, tmp_path: Path) -> None:
    model = vitzoo.create("vit_tiny", embed_dim=1024, depth=4, num_heads=16)
    folder = tmp_path / "model"
    folder.mkdir()
    vitzoo.save(model, folder / "timm.safetensors" if layout == "timm" else folder, format=layout)
    vitzoo.save(vitzoo.create("vit_tiny", depth=1), tmp_path / "small", format="transformers")
    command = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.15


@pytest.mark.parametrize("name", ["vit_logits", "clip", "siglip", "dinov2_reg_swiglu"])
def test_tensors_on_fresh_pages_are_the_same_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = TWINS[name]
    path = twin.save(twin.model(), tmp_path)
    fresh = vitzoo.load(path, dtype=torch.float64).state_dict()
    monkeypatch.setattr("vitzoo.factory.on_fresh_pages", lambda state, source: state)
    plain = vitzoo.load(path, dtype=torch.float64).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in fresh.items())


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = TWINS["vit_logits"]
    path = twin.save(twin.model(), tmp_path)
    read = pages.read_tensors

    def replaced(file: Path) -> object:
        draft = file.with_name("draft")
        draft.write_bytes(file.read_bytes())
        draft.replace(file)
        return read(file)

    monkeypatch.setattr(pages, "read_tensors", replaced)
    with pytest.raises(CheckpointError, match="changed while it was read; nothing was loaded: load it again"):
        vitzoo.load(path)


@pytest.mark.parametrize("format", ["vitzoo", "transformers"])
def test_a_model_outlives_the_file_that_it_came_from(format: str, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model", format=format)
    model = vitzoo.load(tmp_path / "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = small("vit")
    with torch.no_grad():
        other.head.bias.add_(1)
    vitzoo.save(other, tmp_path / "model", format=format)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    vitzoo.save(model, tmp_path / "model", format=format)
    again = vitzoo.load(tmp_path / "model").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_a_wrapped_model_are_read(prefix: str, suffix: str, tmp_path: Path) -> None:
    model = vitzoo.create("vit_tiny", **SMALL)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / f"wrapped{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        save_file(state, path)
    loaded = vitzoo.create("vit_tiny", weights=path, **SMALL)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    (note,) = [note for note in loaded.load_report.notes if note.what == prefix]
    assert str(note) == f"dropped {prefix}: torch's DistributedDataParallel or torch.compile put it before every name"
    # A name without it shows that it is no wrapper's.
    torch.save(state | {"head.bias2": torch.zeros(1)}, tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match="of no format that vitzoo knows"):
        vitzoo.create("vit_tiny", weights=tmp_path / "mixed.pth", **SMALL)


def test_positions_of_a_grid_that_is_no_square_stay_and_resize_as_they_lie(tmp_path: Path) -> None:
    # 4 x 16 patches, as many as 8 x 8.
    model = small("vit", img_size=(32, 128))
    vitzoo.save(model, tmp_path / "model")
    vitzoo.save(model, tmp_path / "timm.safetensors", format="timm")
    again = vitzoo.load(tmp_path / "model")
    bare = vitzoo.create("vit_tiny", weights=tmp_path / "timm.safetensors", **{**SMALL, "img_size": (32, 128)})
    assert torch.equal(again.pos_embed, model.pos_embed)
    assert torch.equal(bare.pos_embed, model.pos_embed)
    for size in (64, 48):
        resized = vitzoo.load(tmp_path / "model", img_size=size)
        expected = vitzoo.load(tmp_path / "model")
        expected.set_input_size(size)
        assert torch.equal(resized.pos_embed, expected.pos_embed)
        assert f"a grid of 4x16 to {size // 8}x{size // 8}" in resized.load_report.of("resized")[0].why


def test_a_bare_file_with_positions_of_no_square_needs_the_size_of_its_images(tmp_path: Path) -> None:
    # 4 x 7 patches, and 4 x 6, which with the class token's position are as many as 5 x 5.
    for size in ((32, 56), (32, 48)):
        model = small("vit", img_size=size)
        vitzoo.save(model, tmp_path / "timm.safetensors", format="timm")
        told = {"num_heads": model.config.num_heads, "norm": "layernorm", "mlp": "gelu"}
        again = vitzoo.load(tmp_path / "timm.safetensors", img_size=size, **told)
        assert torch.equal(again.pos_embed, model.pos_embed)
        assert (again.config.img_size, again.config.no_embed_class) == (size, False)
    vitzoo.save(small("vit", img_size=(32, 56)), tmp_path / "timm.safetensors", format="timm")
    words = r"the position table has 29 rows, which are no square grid .* give img_size=\(height, width\) of the images"
    for other in ({}, {"img_size": 64}):
        with pytest.raises(CheckpointError, match=words):
            vitzoo.load(tmp_path / "timm.safetensors", **told, **other)
    for wrong in ("big", (1, 2, 3)):
        with pytest.raises(ConfigError, match="img_size"):
            vitzoo.load(tmp_path / "timm.safetensors", img_size=wrong, **told)


@torch.inference_mode()
def test_a_named_model_computes_as_the_directory_of_its_weights_says(tmp_path: Path) -> None:
    image = torch.randn(1, 3, 32, 32)
    model = small("vit", norm=("layernorm", {"eps": 1e-2}), mlp="quick_gelu", pool="avg", fc_norm=False)
    model.preprocess, model.labels = Preprocess(mean=CLIP_MEAN), tuple("abcde")
    vitzoo.save(model, tmp_path / "model")
    named = vitzoo.create("vit_tiny", weights=tmp_path / "model", **SMALL).eval()
    assert torch.equal(named(image), model(image))
    assert (named.preprocess, named.labels) == (model.preprocess, model.labels)
    assert len(named.load_report.of("set")) == 3
    kept = vitzoo.create("vit_tiny", weights=tmp_path / "model", mlp="gelu", **SMALL)
    assert kept.config.mlp.name == "gelu"
    for field, other in (("num_heads", 4), ("block", "post_norm"), ("rope", "axial")):
        vitzoo.save(small("vit", **{field: other}), tmp_path / "other")
        with pytest.raises(CheckpointError, match=f"have {field}={other!r}, .*the numbers would be wrong"):
            vitzoo.create("vit_tiny", weights=tmp_path / "other", **SMALL)


def test_a_directory_of_timms_with_the_models_own_names_says_what_they_leave_open(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file(small("vit").state_dict(), tmp_path / "model/model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**config, "model_args": {"num_heads": 2}, "label_names": list("abcde")}))
    named = vitzoo.create("vit_tiny", weights=tmp_path / "model", **SMALL)
    assert (named.preprocess.mean, named.labels) == ((0.1, 0.2, 0.3), tuple("abcde"))
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="have num_heads=3, and the model has 2"):
        vitzoo.create("vit_tiny", weights=tmp_path / "model", **SMALL)


def test_of_a_training_checkpoint_the_averaged_weights_are_read(tmp_path: Path) -> None:
    last, averaged = small("vit").state_dict(), vitzoo.create("vit_tiny", **SMALL).state_dict()
    torch.save({"state_dict": last, "state_dict_ema": averaged}, tmp_path / "last.pth.tar")
    model = vitzoo.create("vit_tiny", weights=tmp_path / "last.pth.tar", **SMALL)
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())
    assert "the averaged weights were read, state_dict_ema" in str(model.load_report.of("dropped")[0])
