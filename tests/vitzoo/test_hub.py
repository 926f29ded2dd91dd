"""Weights from the hub and to it, against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from families import small
from foreign import TWINS
from hub_server import Hub, run_python, running_hub
from safetensors.torch import load_file, save_file

import vitzoo

# Loads what it is told to, and prints a line for each: the tensors' sum and the report, or the error's words.
LOAD = """
import json, sys, torch, vitzoo
for source in sys.argv[1:]:
    try:
        model = vitzoo.load(source).eval()
    except vitzoo.VitzooError as caught:
        print(json.dumps({"error": str(caught), "kind": type(caught).__name__}))
        continue
    total = sum(tensor.double().sum().item() for tensor in model.state_dict().values())
    report = model.load_report
    print(json.dumps({"sum": total, "revision": report.revision, "format": report.format,
                      "license": model.provenance.license,
                      "files": [file.path.name for file in report.files]}))
"""

# huggingface_hub puts 10 MB on the disk at a time, and waits between retries: too much for small models, and too long.
QUICK = """
import time, huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000
time.sleep = lambda seconds: None
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def total(model: torch.nn.Module) -> float:
    """Return the sum of a model's tensors."""
    return sum(tensor.double().sum().item() for tensor in model.state_dict().values())


def load_all(hub: Hub | None, cache: Path, *sources: str, quick: bool = False, **environment: str) -> list[dict]:
    """Load sources in a process of its own; `quick`: no pauses between retries, and small files in many pieces."""
    code = f"{QUICK}{LOAD}" if quick else LOAD
    return [json.loads(line) for line in run_python(code, *sources, hub=hub, cache=cache, **environment).splitlines()]


def layouts(folder: Path) -> dict[str, Path]:
    """Return {layout: directory} of every layout that a repository may have."""
    native, timm, plain, shards = (folder / name for name in ("native", "timm", "pickled", "shards"))
    vitzoo.save(small("vit"), native)
    for path in (timm, plain, shards):
        path.mkdir()
    state = vitzoo.create("vit_tiny_patch16_224", depth=1, img_size=32).state_dict()
    described = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 1000,
        "model_args": {"depth": 1, "img_size": 32},
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    save_file(state, timm / "model.safetensors")
    (timm / "config.json").write_text(json.dumps(described))
    torch.save(state, plain / "pytorch_model.bin")
    (plain / "config.json").write_text(json.dumps(described))
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: state[name] for name in own}, shards / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    (shards / "config.json").write_text(json.dumps(described))
    found = {"vitzoo": native, "timm": timm, "timm, as .bin": plain, "timm, in shards": shards}
    for name, twin in {"transformers": "vit_logits", "open_clip": "open_clip_quick"}.items():
        theirs = folder / f"{name}_theirs"
        theirs.mkdir()
        found[name] = TWINS[twin].save(TWINS[twin].model(), theirs)
    clip = folder / "open_clip_pickled"
    clip.mkdir()
    torch.save(load_file(found["open_clip"] / "open_clip_model.safetensors"), clip / "open_clip_pytorch_model.bin")
    shutil.copy(found["open_clip"] / "open_clip_config.json", clip)
    return {**found, "open_clip, as .bin": clip}


def test_every_layout_is_read_from_the_hub_as_from_its_directory(hub: Hub, tmp_path: Path) -> None:
    folders = layouts(tmp_path)
    names = [f"acme/model{number}" for number in range(len(folders))]
    commits = [hub.add(name, folder) for name, folder in zip(names, folders.values(), strict=True)]
    loaded = load_all(hub, tmp_path / "cache", *(f"hf-hub:{name}" for name in names))
    for (layout, folder), commit, got in zip(folders.items(), commits, loaded, strict=True):
        here = vitzoo.load(folder)
        assert got.get("sum") == total(here), (layout, got)
        assert (got["format"], got["revision"]) == (here.load_report.format, commit), layout

    # The same again with no hub at all: all that is needed is in the cache.
    assert load_all(None, tmp_path / "cache", *(f"hf-hub:{name}" for name in names)) == loaded


def test_one_copy_of_the_weights_is_downloaded_and_only_what_describes_it(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    vitzoo.save(small("vit"), folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "open_clip_model.safetensors"):
        (folder / name).write_bytes(b"the same weights again")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.add("acme/tiny", folder)
    loaded = load_all(hub, tmp_path / "cache", "hf-hub:acme/tiny")
    assert loaded[0]["license"] == "mit"
    assert load_all(None, tmp_path / "cache", "hf-hub:acme/tiny") == loaded
    got = {request.rpartition("/")[2] for request in hub.asked if request.startswith("GET")}
    assert got == {"model.safetensors", "config.json", "README.md"}


def test_a_repository_with_code_in_its_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "it ran",)

    (tmp_path / "model").mkdir()
    (tmp_path / "model/pytorch_model.bin").write_bytes(pickle.dumps({"weight": Code()}))
    (tmp_path / "model/config.json").write_text('{"model_type": "vit"}')
    hub.add("acme/code", tmp_path / "model")
    (refused,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/code")
    assert refused["kind"] == "UnsafeFileError"
    assert "reading them would run code from the file" in refused["error"]
    assert not (tmp_path / "it ran").exists()


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, tmp_path: Path) -> None:
    models = {name: small("vit", depth=depth) for name, depth in {"main": 1, "v1": 2}.items()}
    commits = {}
    for name, model in models.items():
        vitzoo.save(model, tmp_path / name)
        commits[name] = hub.add("acme/tiny", tmp_path / name, ref=name)
    sources = ["hf-hub:acme/tiny", "hf-hub:acme/tiny@v1", f"hf-hub:acme/tiny@{commits['v1']}", "hf-hub:acme/tiny@v2"]
    main, tag, commit, unknown = load_all(hub, tmp_path / "cache", *sources)
    assert (main["sum"], main["revision"]) == (total(models["main"]), commits["main"])
    assert tag == commit
    assert (tag["sum"], tag["revision"]) == (total(models["v1"]), commits["v1"])
    assert unknown["error"] == (
        f"cannot get 'acme/tiny' from the hub: it has no revision 'v2': {hub.url}/acme/tiny/tree/main shows its "
        "branches and tags"
    )


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    hub.add("acme/tiny", tmp_path / "model")
    hub.drops = 1
    (got,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/tiny", quick=True)
    assert got["sum"] == total(small("vit"))
    assert any(re.search(r"GET .*model\.safetensors bytes=[1-9]", request) for request in hub.asked)


def test_a_hub_that_is_gone_in_mid_file_is_an_error_and_the_next_try_succeeds(hub: Hub, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    hub.add("acme/tiny", tmp_path / "model")
    # Half of the file arrives and nothing after it, so that huggingface_hub's own retries are spent in vain.
    hub.drops, hub.breaks_after_drop = 1, True
    (failed,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/tiny", quick=True)
    assert failed["kind"] == "CheckpointError"
    assert failed["error"].startswith("cannot get 'acme/tiny' from the hub: ")
    assert failed["error"].endswith("; try again: files that came whole stay in the cache")
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    assert not list((tmp_path / "cache").rglob("model.safetensors"))

    hub.breaks_after_drop = False
    (got,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/tiny")
    assert got["sum"] == total(small("vit"))


def test_refusals_say_what_was_asked_and_what_to_do(hub: Hub, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    for name, refusal in {"gated": (403, "GatedRepo"), "closed": (403, ""), "broken": (500, "")}.items():
        hub.add(f"acme/{name}", tmp_path / "model", refusal=refusal)
    hub.add("acme/mine", tmp_path / "model", token="right")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/notes.txt").write_text("no weights")
    hub.add("acme/notes", tmp_path / "notes")
    names = ("gated", "mine", "none", "closed", "broken", "notes")
    sources = [*(f"hf-hub:acme/{name}" for name in names), "hf-hub:a/b/c", "hf-hub:@main"]
    answers = load_all(hub, tmp_path / "cache", *sources, quick=True)
    assert {answer["kind"] for answer in answers} == {"CheckpointError"}
    gated, mine, none, closed, broken, notes, malformed, empty = (answer["error"] for answer in answers)
    log_in = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
    for name, error in {"gated": gated, "mine": mine}.items():
        page = f"{hub.url}/acme/{name}"
        assert (
            error
            == f"cannot get 'acme/{name}' from the hub: it is gated: accept its conditions at {page}, then {log_in}"
        )
    assert "there is no such repository, or it is private: compare the name with" in none
    assert closed.endswith(f"the hub answers 403, so the token may not read it: {log_in}")
    assert "500" in broken
    assert "there is no file of weights that vitzoo looks for (possible: model.safetensors, " in notes
    assert malformed.startswith("cannot get 'a/b/c' from the hub: HFValidationError: ")
    assert empty == "'hf-hub:@main' names no repository (possible: 'hf-hub:org/name[@revision]')"

    (allowed,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/mine", HF_TOKEN="right")
    assert allowed["sum"] == total(small("vit"))


def test_out_of_reach_is_not_taken_for_absent(hub: Hub, tmp_path: Path) -> None:
    vitzoo.save(small("vit"), tmp_path / "model")
    hub.add("acme/tiny", tmp_path / "model")
    nowhere = Hub(url="http://127.0.0.1:9")
    (failed,) = load_all(nowhere, tmp_path / "cache", "hf-hub:acme/tiny", quick=True)
    assert "http://127.0.0.1:9 cannot be reached, and the cache does not hold it: " in failed["error"]
    (first,) = load_all(hub, tmp_path / "cache", "hf-hub:acme/tiny")
    assert load_all(nowhere, tmp_path / "cache", "hf-hub:acme/tiny", quick=True) == [first]
    (offline,) = load_all(None, tmp_path / "cache", "hf-hub:acme/other")
    assert (
        "there is no file of weights that vitzoo looks for in the cache, and HF_HUB_OFFLINE is set" in offline["error"]
    )
