"""Public checkpoints by name, their licences, and where a model's weights come from."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import small
from foreign import TWINS
from hub_server import run_process, running_hub
from safetensors.torch import load_file, save_file

import vitzoo
from vitzoo.catalog import find_default, find_model
from vitzoo.errors import CheckpointError, ConfigError, LicenseWarning, UnknownNameError
from vitzoo.licenses import kind_of
from vitzoo.plugin import get_registry
from vitzoo.preprocess import Preprocess
from vitzoo.provenance import Provenance, _warn_once
from vitzoo.registry import Entry, Registry
from vitzoo.variants.table import Family, Tag, Variant
from vitzoo.weights.address import download_address
from vitzoo.weights.formats.timm import to_timm

TINY: dict[str, Any] = {"depth": 1, "img_size": 32}
VARIANTS = [entry.target for entry in get_registry().entries("model") if isinstance(entry.target, Variant)]


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """Let every test be the first of its process to hear of a licence."""
    _warn_once.cache_clear()
    yield
    _warn_once.cache_clear()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a folder what the hub answers for a repository."""
    folders: dict[str, Path] = {}

    def publish(repository: str, model: torch.nn.Module, card: str = "") -> Path:
        folders[f"hf-hub:{repository}"] = folder = tmp_path / "hub" / repository / "0123abcd"
        folder.mkdir(parents=True)
        save_file(dict(model.state_dict()), folder / "model.safetensors")
        (folder / "README.md").write_text(card)
        return folder

    monkeypatch.setattr("vitzoo.weights.hub.download", lambda name: folders[name.partition("@")[0]])
    return publish


def test_every_variant_and_checkpoint_states_licence_source_and_paper() -> None:
    for variant in VARIANTS:
        assert variant.license, variant.name
        assert variant.paper, variant.name
        for name, tag in variant.tags.items():
            assert tag.license, name
            assert tag.paper, name
            assert len(tag.arxiv) == 10, name
            assert tag.url.startswith("https://"), name
        if variant.tags:
            assert variant.license == next(iter(variant.tags.values())).license
    assert find_model("vit_base_patch16_224.mae").tag.arxiv == "2111.06377"
    assert find_model("vit_base_patch16_224.orig_in21k").tag.arxiv == "2010.11929"
    assert find_model("vit_base_patch16_clip_224.laion2b").tag.arxiv == "2212.07143"
    assert find_model("eva_giant_patch14_clip_224.laion400m").tag.arxiv == "2303.15389"


@pytest.mark.parametrize(
    ("license", "kind"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("fair-noncommercial-research-license", "non-commercial"),
        ("dinov3-license", "custom"),
        ("something-new", "custom"),
        ("not stated", "not stated"),
    ],
)
def test_a_licence_that_is_not_known_is_never_permissive(license: str, kind: str) -> None:
    assert kind_of(license) == kind


def test_models_are_listed_by_licence_and_by_checkpoint() -> None:
    permissive, tagged = vitzoo.list_models(license="permissive"), vitzoo.list_models("*.*", license="permissive")
    assert "vit_base_patch16_224" in permissive
    assert "vit_small_patch16_dinov3" not in permissive
    assert "vit_base_patch16_224.mae" not in tagged
    assert "vit_base_patch16_224.dino" in tagged
    # A bare name is what create(name, weights="default") loads.
    for name in vitzoo.list_models(license="permissive", plugin="vitzoo"):
        variant = find_model(name).target
        if variant.default_tag is not None:
            assert kind_of(find_default(name).tag.license) == "permissive", name
    kinds = ("permissive", "non-commercial", "custom", "not stated")
    of_all_kinds = [name for kind in kinds for name in vitzoo.list_models("*.*", license=kind)]
    assert sorted(of_all_kinds) == vitzoo.list_models("*.*")

    pretrained = vitzoo.list_models("vit_small_patch16_224", pretrained=True)
    assert pretrained == [
        f"vit_small_patch16_224.{tag}" for tag in ("augreg_in1k", "augreg_in21k", "augreg_in21k_ft_in1k", "dino")
    ]
    assert "vit_huge_patch14_gap_224.in1k_ijepa" in vitzoo.list_models("*.*")
    assert vitzoo.list_models("*ijepa", pretrained=True) == []
    assert set(vitzoo.list_models(pretrained=True)) <= set(vitzoo.list_models("*.*"))


@pytest.mark.parametrize("asked", [{"weights": "default"}, {"pretrained": True}])
def test_the_default_is_the_first_tags_checkpoint_with_its_switches(asked: dict[str, Any], published: Any) -> None:
    theirs = vitzoo.create("vit_small_patch16_224", **TINY)
    published("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", theirs)
    for name in ("vit_small", "vit_small_patch16_224", "vit_small_patch16_224.augreg_in21k_ft_in1k"):
        ours = vitzoo.create(name, **asked, **TINY)
        assert ours.model_name == "vit_small_patch16_224.augreg_in21k_ft_in1k"
        assert ours.config.mlp.name == "gelu_tanh"
        assert ours.load_report.source == "hf-hub:timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
        assert ours.provenance == Provenance(
            source="hf-hub:timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
            revision="0123abcd",
            checkpoint="vit_small_patch16_224.augreg_in21k_ft_in1k",
            license="apache-2.0",
            url="https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
            paper="How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers",
            arxiv="2106.10270",
        )
    fine_tuned = vitzoo.create("vit_small", **asked, num_classes=7, reset="head", mlp="gelu", **TINY)
    assert (fine_tuned.num_classes, fine_tuned.config.mlp.name) == (7, "gelu")


def test_a_note_on_what_the_name_already_has_is_for_those_who_name_nothing(published: Any) -> None:
    name = "vit_small_patch16_dinov3"
    theirs = vitzoo.create(f"{name}.lvd1689m", **TINY)
    folder = published(f"timm/{name}.lvd1689m", theirs)
    save_file(to_timm(theirs.state_dict(), eva=True), folder / "model.safetensors")
    described = {"architecture": name, "model_args": TINY, "num_classes": 0, "pretrained_cfg": {"tag": "lvd1689m"}}
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.warns(LicenseWarning, match="dinov3-license"):
        named = vitzoo.create(name, weights="default", **TINY)
    assert (named.config.pool.name, named.load_report.of("set")) == ("token", ())
    unnamed = vitzoo.load(folder)
    assert unnamed.config.pool.name == "avg"
    assert "as timm computes; they were trained with {'pool': 'token'" in unnamed.load_report.of("set")[0].why


def test_another_tag_is_another_checkpoint(published: Any) -> None:
    published("timm/vit_small_patch16_224.dino", vitzoo.create("vit_small_patch16_224.dino", **TINY))
    ours = vitzoo.create("vit_small.dino", pretrained=True, **TINY)
    assert ours.provenance.arxiv == "2104.14294"
    assert ours.num_classes == 0


def test_a_name_without_a_public_checkpoint_says_so_and_which_there_are() -> None:
    with pytest.raises(
        CheckpointError, match="'vit_large_patch14_224' has no known public checkpoint. Checkpoints of"
    ) as caught:
        vitzoo.create("vit_large_patch14_224", weights="default")
    assert "vit_large_patch16_224.augreg_in21k_ft_in1k" in str(caught.value)
    assert str(caught.value).endswith("vitzoo.list_models(pretrained=True) lists all")
    address = r"https://dl\.fbaipublicfiles\.com/ijepa/IN1K-vit\.h\.16-448px-300e\.pth\.tar"
    with pytest.raises(CheckpointError, match=f"no known public checkpoint that vitzoo reads; there are {address}"):
        vitzoo.create("vit_huge_patch16_gap_448", weights="default")
    with pytest.raises(CheckpointError, match=f"not in a form that vitzoo reads; their source is {address}"):
        vitzoo.create("vit_huge_patch16_gap_448.in1k_ijepa", pretrained=True)
    with pytest.raises(ConfigError, match="weights='default' belong to a name, and a ViTConfig has none"):
        vitzoo.create(small("vit").config, weights="default")
    with pytest.raises(ConfigError, match="pretrained=True is weights='default'; weights='a.pth' was given too"):
        vitzoo.create("vit_small", pretrained=True, weights="a.pth")
    with pytest.raises(UnknownNameError, match=r"'hf-hub:a/b.c' is a place of weights, not a model: vitzoo\.load\("):
        vitzoo.create("hf-hub:a/b.c", pretrained=True)
    with pytest.raises(UnknownNameError, match="has no tag 'augreg'"):
        vitzoo.create("vit_small.augreg", weights="default")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_224.mae", "are under cc-by-nc-4.0, which does not allow commercial use. Read https://hugg"),
        ("vit_small_patch16_dinov3", "are under dinov3-license, which has terms of its own. Read https://huggingface"),
        ("vit_base_patch16_224.bamboo", "state no licence, so nobody has been given a right to use them. Read https"),
    ],
)
def test_a_licence_that_is_not_permissive_is_said_once(name: str, words: str, published: Any) -> None:
    full = find_default(name).name
    changes = {**TINY, "embed_dim": 64, "num_heads": 1, "num_classes": 0}
    published(find_default(name).tag.source, vitzoo.create(full, **changes))
    with pytest.warns(LicenseWarning) as told:
        vitzoo.create(name, weights="default", **changes)
    assert [str(warning.message).partition(words)[:2] for warning in told] == [(f"the weights {full} ", words)]
    vitzoo.create(name, weights="default", **changes)


def test_what_is_permissive_or_not_known_is_loaded_without_a_word(published: Any, tmp_path: Path) -> None:
    published("timm/vit_tiny_patch16_224.augreg_in21k", vitzoo.create("vit_tiny.augreg_in21k", **TINY))
    vitzoo.create("vit_tiny.augreg_in21k", weights="default", **TINY)
    vitzoo.save(small("vit"), tmp_path / "me@home/model")
    assert vitzoo.load(tmp_path / "me@home/model").provenance == Provenance(source="model")


@pytest.mark.parametrize(
    ("stated", "license"), [({"license": "mit"}, "mit"), ({"license": ["mit"]}, None), ({}, None), (None, None)]
)
def test_timms_config_states_the_licence_of_a_directory(stated: Any, license: str | None, tmp_path: Path) -> None:
    save_file(dict(vitzoo.create("vit_tiny", **TINY).state_dict()), tmp_path / "model.safetensors")
    described = {"architecture": "vit_tiny_patch16_224", "model_args": TINY} | (
        {"pretrained_cfg": stated} if stated else {}
    )
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert vitzoo.load(tmp_path).provenance == Provenance(source=tmp_path.name, license=license)


def test_a_tag_in_the_name_says_whose_weights_a_file_holds(tmp_path: Path) -> None:
    changes = {**TINY, "embed_dim": 64, "num_heads": 1}
    file = tmp_path / "weights.pth"
    torch.save(vitzoo.create("vit_base_patch16_224.mae", **changes).state_dict(), file)
    with pytest.warns(LicenseWarning, match="the weights vit_base_patch16_224.mae are under cc-by-nc-4.0"):
        named = vitzoo.create("vit_base_patch16_224.mae", weights=file, **changes)
    assert (named.provenance.source, named.provenance.license) == ("weights.pth", "cc-by-nc-4.0")
    assert vitzoo.create("vit_base_patch16_224", weights=file, **changes, num_classes=0).provenance.license is None


CARD = "---\nlicense: other\nlicense_name: acme-research\nextra_gated_prompt: Be kind.\n---\n# A model\n"


@pytest.mark.parametrize(
    ("card", "license", "words"),
    [
        ("", None, None),
        ("---\nlicense: mit\n---\n", "mit", None),
        (
            "---\nlicense: cc-by-nc-4.0\n---\n",
            "cc-by-nc-4.0",
            "does not allow commercial use. Read https://huggingface.co/a",
        ),
        (CARD, "acme-research", "terms of its own; they are gated: whoever uses them has to have accepted their cond"),
        ("---\nlicense: [\n---\n", None, "the card of hf-hub:acme/model@main has damaged metadata, so the licence"),
    ],
)
def test_the_hubs_card_states_the_licence(card: str, license: str, words: str | None, published: Any) -> None:
    published("acme/model", vitzoo.create("vit_tiny", **TINY), card)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = vitzoo.create("vit_tiny", weights="hf-hub:acme/model@main", **TINY)
    assert (model.provenance.source, model.provenance.license) == ("hf-hub:acme/model", license)
    assert [True for warning in told if words and words in str(warning.message)] == ([True] if words else [])


@pytest.mark.parametrize("format", ["vitzoo", "timm", "transformers", "torchvision"])
def test_provenance_stays_with_the_weights_in_every_format(format: str, tmp_path: Path) -> None:
    settings = {"mlp": "gelu", "norm": ("layernorm", {"eps": 1e-6}), "num_heads": 2}
    model = small("vit", **settings)
    model.provenance = Provenance(source="hf-hub:acme/a", license="mit", url="https://a.b/c", arxiv="2010.11929")
    written = tmp_path / ("out" if format in ("vitzoo", "transformers") else "out.safetensors")
    vitzoo.save(model, written, format=format)
    read = vitzoo.load(written, **({} if written.suffix == "" else settings))
    assert read.provenance == model.provenance
    vitzoo.save(read, tmp_path / "again")
    assert vitzoo.load(tmp_path / "again").provenance == model.provenance


def test_provenance_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    model = small("vit")
    vitzoo.save(model, tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    for text in ("{", "[]", '{"source": 1}', '{"source": "a", "more": "b"}', '{"source": "a", "gated": "yes"}'):
        save_file(load_file(file), file, metadata={"vitzoo.provenance": text})
        with pytest.raises(CheckpointError, match="the weights' provenance"):
            vitzoo.load(tmp_path / "model")


def test_a_checkpoint_at_an_address_is_fetched_once_and_held_to_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    theirs = TWINS["torchvision"].model()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()[:8]
    source = (tmp_path / "weights.pth").rename(tmp_path / f"weights-{digest}.pth").as_uri()
    file = download_address(source)
    assert file == tmp_path / f"torch/hub/checkpoints/weights-{digest}.pth"
    Path(source.removeprefix("file://")).unlink()
    assert download_address(source) == file
    file.rename(tmp_path / "weights-00000000.pth")
    with pytest.raises(CheckpointError, match="cannot get 'file:.*invalid hash value.*nothing was kept, try again"):
        download_address((tmp_path / "weights-00000000.pth").as_uri())
    with pytest.raises(CheckpointError, match="cannot get .*No such file"):
        download_address(source)
    with pytest.raises(CheckpointError, match="does not end in its own hash, such as '-c867db91.pth': download it"):
        vitzoo.load("https://example.org/model.pth")


def test_a_plugins_variant_has_default_weights_too(registry: Registry, published: Any) -> None:
    tag = Tag(preprocess=Preprocess(), license="mit", gated=True)
    row = Family(paper="A paper", arxiv="2401.00001", source="acme/{name}.{tag}").row(
        "mini", 0, {"v1": tag}, embed_dim=32, depth=1, num_heads=2, img_size=32
    )
    registry.add(Entry(kind="model", name="acme/mini", provider="acme", target=replace(row, name="acme/mini")))
    published("acme/mini.v1", vitzoo.create("acme/mini"))
    with pytest.warns(LicenseWarning, match="the weights acme/mini.v1 are under mit; they are gated: whoever"):
        model = vitzoo.create("acme/mini", pretrained=True)
    assert model.provenance.gated
    assert "acme/mini.v1" in vitzoo.list_models(pretrained=True, license="permissive", plugin="acme")


def test_a_plugins_function_has_no_default_weights(registry: Registry) -> None:
    vitzoo.register("model", "acme/free")(lambda **config: small("vit"))
    with pytest.raises(CheckpointError, match="'acme/free' has no known public checkpoint"):
        vitzoo.create("acme/free", pretrained=True)


def test_default_weights_come_from_the_hub_and_warn_once_a_process(tmp_path: Path) -> None:
    name = "vit_base_patch16_224.mae"
    (tmp_path / "model").mkdir()
    save_file(dict(vitzoo.create(name, **TINY).state_dict()), tmp_path / "model/model.safetensors")
    code = (
        "import json, warnings, vitzoo\n"
        "for again in range(2):\n"
        f"    model = vitzoo.create({name!r}, weights='default', **{TINY!r})\n"
        "    with warnings.catch_warnings():\n"
        "        warnings.simplefilter('default')\n"
        "print(json.dumps(model.load_report.files[0].path.name))\n"
    )
    with running_hub() as hub:
        hub.add(f"timm/{name}", tmp_path / "model")
        done = run_process(code, hub=hub, cache=tmp_path / "cache")
    assert json.loads(done.stdout) == "model.safetensors"
    assert done.stderr.count("LicenseWarning: the weights vit_base_patch16_224.mae are under cc-by-nc-4.0") == 1
