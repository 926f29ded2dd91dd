"""What is damaged, hostile or has no room is refused whole: nothing is half-loaded and nothing half-written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from families import SMALL, small
from safetensors.torch import load_file, save_file
from torch import Tensor

import vitzoo
from vitzoo.errors import CheckpointError, ConfigError, UnsafeFileError, WriteError

STATE = {name: tensor.clone() for name, tensor in small("vit").state_dict().items()}


def create(file: Path) -> torch.nn.Module:
    """Load a file into the model that `STATE` is of."""
    return vitzoo.create("vit_tiny", weights=file, **SMALL)


def write(state: dict[str, Tensor], file: Path) -> Path:
    """Write tensors as the file's name says; 'legacy.pth' as torch did before 1.6."""
    if file.suffix == ".safetensors":
        save_file(state, file)
    elif file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, file, _use_new_zipfile_serialization=file.stem != "legacy")
    return file


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth", "a.npz"])
def test_a_file_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    whole = write(STATE, tmp_path / name).read_bytes()
    rest = [int(len(whole) * share) for share in (0, 0.001, 0.01, 0.3, 0.7, 0.99)]
    for length in [1, 2, 9, *rest, len(whole) - 1]:
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged or not .*copy or download it again"):
            create(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth", "a.npz"])
def test_a_file_with_wrong_bytes_is_refused_or_read_and_raises_nothing_else(name: str, tmp_path: Path) -> None:
    whole, random = write(STATE, tmp_path / name).read_bytes(), Random(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(random.choice((1, 20))):
            content[random.choice((random.randrange(3000), -1 - random.randrange(3000)))] = random.randrange(256)
        (tmp_path / name).write_bytes(content)
        try:
            create(tmp_path / name)
        except (CheckpointError, UnsafeFileError):
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.npz"])
def test_weights_that_are_no_floating_point_numbers_are_refused(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    wrong = {key: STATE[key].to(dtype) for key in ("head.weight", "pos_embed")}
    file = write({**STATE, **wrong}, tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        create(file)
    kind = str(dtype).removeprefix("torch.")
    for words in (
        "nothing was loaded",
        f"of a wrong dtype (2): head.weight {kind}; pos_embed {kind}",
        "quantised them",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_weights_that_need_scales_are_refused(format: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / ("model.safetensors" if format == "timm" else "model")
    vitzoo.save(small("vit"), path, format=format)
    file = path if format == "timm" else path / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "weight" in name and state[name].ndim == 2)
    save_file({**state, name: state[name].to(dtype)}, file)
    with pytest.raises(CheckpointError, match=r"\(1 such tensors in .* nothing was loaded: write them as float16, bf"):
        create(file) if format == "timm" else vitzoo.load(path)


def test_a_dtype_that_no_torch_has_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError):
        create(tmp_path / "a.safetensors")


def test_an_array_that_claims_more_than_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../../a.npy", header.getvalue())
    with pytest.raises(CheckpointError, match="is damaged or not an .npz file of arrays"):
        create(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/secret.safetensors",
        "..\\secret.safetensors",
        "..",
        "a.pth",
        3,
        None,
        {"file": "a"},
    ],
    ids=str,
)
def test_an_index_that_leads_out_of_its_folder_is_refused(shard: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path, folder / "sub"):
        save_file({"a": torch.zeros(1)}, secret / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="a shard is a .safetensors file in the same directory"):
        create(folder)


def test_a_shard_of_a_name_that_no_file_has_is_missing(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "x" * 5000 + ".safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not in"):
        create(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100000])
def test_a_config_that_is_no_json_is_refused_on_loading(content: bytes, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    (tmp_path / "model/config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        vitzoo.load(tmp_path / "model")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FULL = """
import resource, signal, sys
import vitzoo
model = vitzoo.create("vit_tiny", depth=1, embed_dim=96)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    vitzoo.save(model, sys.argv[1], format=sys.argv[2])
except vitzoo.VitzooError as error:
    assert isinstance(error, OSError)
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("format", ["vitzoo", "transformers", "timm"])
@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_is_full_leaves_what_was_there(format: str, there: bool, tmp_path: Path) -> None:
    path = tmp_path / ("model.safetensors" if format == "timm" else "model")
    if there:
        vitzoo.save(small("vit"), path, format=format)
    before = contents(tmp_path)
    command = [sys.executable, "-c", FULL, str(path), format, "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("WriteError cannot save to ")
    assert "what was there is as it was. Make room, or save to another place" in done.stdout
    assert contents(tmp_path) == before
    assert there or format == "timm" or not path.exists()


def test_no_file_is_replaced_when_the_last_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    before = contents(tmp_path)
    written = Path.write_text

    def full(path: Path, text: str) -> int:
        written(path, text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="No space left on device; what was there is as it was"):
        vitzoo.save(small("vit", embed_dim=32), tmp_path / "model")
    assert contents(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no lock of a folder")
def test_who_saves_second_waits_until_the_first_is_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = small("vit"), small("vit", embed_dim=32)
    (tmp_path / "model").mkdir()
    halfway, proceed = threading.Event(), threading.Event()
    replace, main = Path.replace, threading.current_thread()

    def slow(draft: Path, target: Path) -> Path:
        result = replace(draft, target)
        if threading.current_thread() is not main and not halfway.is_set():
            halfway.set()
            assert proceed.wait(60)
        return result

    monkeypatch.setattr(Path, "replace", slow)
    slower = threading.Thread(target=vitzoo.save, args=(first, tmp_path / "model"))
    slower.start()
    assert halfway.wait(60)
    # The second is let go on only by the first; without the lock it would be through before that.
    threading.Timer(0.5, proceed.set).start()
    vitzoo.save(second, tmp_path / "model")
    assert proceed.is_set()
    slower.join()
    assert vitzoo.load(tmp_path / "model").config == second.config


RACE = """
import sys, vitzoo
model = vitzoo.create("vit_tiny", depth=1, embed_dim=int(sys.argv[2]), num_heads=2)
for _ in range(15):
    vitzoo.save(model, sys.argv[1])
"""


def test_two_processes_that_save_to_one_folder_leave_one_model_whole(tmp_path: Path) -> None:
    widths = (32, 64)
    command = [sys.executable, "-c", RACE, str(tmp_path / "model")]
    running = [subprocess.Popen([*command, str(width)], env={**os.environ}) for width in widths]
    assert [process.wait(300) for process in running] == [0, 0]
    assert vitzoo.load(tmp_path / "model").embed_dim in widths
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
