"""Models pushed to a hub: what lies there afterwards, what the card says, and what a refusal leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from families import small
from hub_server import Hub, run_process, run_python, running_hub

import vitzoo
from vitzoo.errors import CheckpointError
from vitzoo.provenance import Provenance
from vitzoo.weights.card import model_card

# Pushes what lies in a directory with the keywords that it is given; then loads it back and prints what came.
PUSH = """
import json, sys, vitzoo
model = vitzoo.load(sys.argv[1])
try:
    url = vitzoo.push_to_hub(model, "hf-hub:acme/pushed", **json.loads(sys.argv[2]))
except vitzoo.VitzooError as caught:
    print(json.dumps({"error": str(caught), "kind": type(caught).__name__}))
    raise SystemExit
again = vitzoo.load("hf-hub:acme/pushed@" + url.rpartition("/")[2])
same = all((value == again.state_dict()[name]).all().item() for name, value in model.state_dict().items())
print(json.dumps({"url": url, "same": same, "license": again.provenance.license, "source": again.provenance.source}))
"""

ORIGIN = Provenance(
    source="hf-hub:timm/vit_a.b",
    revision="0123",
    license="mit",
    url="https://a.b/c",
    paper="A paper",
    arxiv="2010.11929",
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = small("vit", norm=("layernorm", {"eps": 1e-12}))
    model.provenance = ORIGIN
    vitzoo.save(model, tmp_path / "model")
    return tmp_path / "model"


def push(hub: Hub, source: Path, token: str = "right", **keywords: Any) -> dict[str, Any]:
    """Push from a process of its own, with a token."""
    told = json.dumps(keywords)
    return json.loads(run_python(PUSH, str(source), told, hub=hub, cache=source.parent / "cache", HF_TOKEN=token))


def metadata(card: str) -> dict[str, Any]:
    """Return the metadata of a card, as the hub reads it."""
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("format", ["vitzoo", "transformers"])
def test_what_is_pushed_is_loaded_back_with_its_provenance(format: str, hub: Hub, saved: Path) -> None:
    pushed = push(hub, saved, format=format, private=True)
    repository = hub.repositories["acme/pushed"]
    commit, files = repository.at("main")
    assert pushed == {
        "url": f"{hub.url}/acme/pushed/commit/{commit}",
        "same": True,
        "license": "mit",
        "source": "hf-hub:timm/vit_a.b",
    }
    assert [request for request in hub.asked if "/commit/" in request] == ["POST /api/models/acme/pushed/commit/main"]
    assert repository.private
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    card = files["README.md"].decode()
    assert metadata(card)["library_name"] == format
    assert (metadata(card)["base_model"], metadata(card)["license"]) == ("timm/vit_a.b", "mit")


def test_a_branch_is_made_and_a_card_of_ones_own_stays(hub: Hub, saved: Path) -> None:
    push(hub, saved)
    repository = hub.repositories["acme/pushed"]
    repository.commit({"README.md": b"# Mine\n"})
    main = repository.refs["main"]
    push(hub, saved, revision="v2")
    assert repository.refs["main"] == main
    assert repository.at("v2")[1]["README.md"] == b"# Mine\n"
    push(hub, saved, replace_card=True)
    assert repository.at("main")[1]["README.md"].startswith(b"---\nlibrary_name: vitzoo\n")


def test_a_push_that_fails_says_why_and_leaves_nothing(hub: Hub, saved: Path) -> None:
    refused = push(hub, saved, token="wrong")
    assert refused["kind"] == "CheckpointError"
    assert refused["error"] == (
        "cannot push to 'acme/pushed' on the hub: the hub answers 401, so the token may not write it: log in with "
        "`hf auth login`, or set HF_TOKEN to a token that may write it"
    )
    vitzoo.save(small("hybrid"), saved.parent / "hybrid")
    misfit = push(hub, saved.parent / "hybrid", format="transformers")
    assert misfit["error"].startswith("format 'transformers' has no place for this model: ")
    single = push(hub, saved, format="torchvision")
    assert single["error"] == (
        "format='torchvision' has no directory that says what it holds, so nobody could load it from the hub by its name "
        "(possible: vitzoo, transformers, open_clip)"
    )
    assert hub.repositories == {}


def test_the_card_says_what_the_model_is_and_where_it_is_from() -> None:
    model = small("vit")
    model.provenance = ORIGIN
    card = model_card(model, "acme/pushed", format="vitzoo", license="mit")
    assert metadata(card) == {
        "library_name": "vitzoo",
        "tags": ["vitzoo", "vision-transformer"],
        "pipeline_tag": "image-classification",
        "license": "mit",
        "base_model": "timm/vit_a.b",
    }
    for line in (
        "# acme/pushed",
        f"`vit_tiny_patch16_224`, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        'model = vitzoo.load("hf-hub:acme/pushed").eval()',
        "| weights they started from | `hf-hub:timm/vit_a.b` |",
        "| commit | 0123 |",
        "| paper | [A paper](https://arxiv.org/abs/2010.11929) |",
        "| img_size | (32, 32) |",
        "| interpolation | bicubic |",
    ):
        assert line in card


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license", "license_link": "https://a.b/c"}),
        (None, {}),
    ],
)
def test_the_cards_licence_is_in_the_hubs_words(license: str | None, expected: dict[str, str]) -> None:
    model = small("vit", num_classes=0)
    model.provenance = ORIGIN
    stated = metadata(model_card(model, "acme/pushed", format="vitzoo", license=license))
    assert {key: value for key, value in stated.items() if key.startswith("license")} == expected
    assert stated["pipeline_tag"] == "image-feature-extraction"
    fresh = small("vit")
    card = model_card(fresh, "acme/pushed", format="vitzoo", license=None)
    assert "| licence | none is stated |" in card
    assert "started from" not in card


def test_only_models_of_vitzoo_are_pushed() -> None:
    with pytest.raises(CheckpointError, match="Linear was not made by vitzoo.create"):
        vitzoo.push_to_hub(torch.nn.Linear(1, 1), "acme/pushed")


def test_the_command_pushes(hub: Hub, saved: Path) -> None:
    code = "import sys; from vitzoo.cli import main; sys.argv = ['vitzoo', 'push', *sys.argv[1:]]; main()"
    arguments = (str(saved), "acme/told", "--license", "apache-2.0", "--private", "--json")
    done = run_process(code, *arguments, hub=hub, cache=saved.parent / "cache", HF_TOKEN="right")
    commit, files = hub.repositories["acme/told"].at("main")
    assert json.loads(done.stdout) == {"commit": f"{hub.url}/acme/told/commit/{commit}"}
    assert hub.repositories["acme/told"].private
    assert metadata(files["README.md"].decode())["license"] == "apache-2.0"
