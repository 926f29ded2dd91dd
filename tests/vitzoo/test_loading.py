"""What loading costs, and what becomes of a model whose file is written again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import SMALL, small
from foreign import TWINS
from safetensors.torch import save_file

import vitzoo
from vitzoo.errors import CheckpointError
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
