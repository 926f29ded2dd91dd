"""The command: what it prints for people and for scripts, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import vitzoo_kernels
from families import SMALL, small
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import ViT_B_16_Weights
from typer.testing import CliRunner

import vitzoo
from vitzoo.cli.app import app_for
from vitzoo.errors import ImageError, InputError, VitzooError

runner = CliRunner(env={"COLUMNS": "200"})


def out_of(*arguments: str, code: int = 0) -> str:
    """Run the command in this process and return its stdout."""
    result = runner.invoke(app_for(()), arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    import os

    command = [sys.executable, "-m", "vitzoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_models_are_listed_with_their_counts_and_sources() -> None:
    text = out_of("models", "vit_small_patch16_2*")
    assert "vit_small_patch16_224" in text
    assert "22.05 M" in text
    assert "224x224" in text
    assert "vit_small = vit_small_patch16_224" in text
    rows = json.loads(out_of("models", "vit_small_patch16_2*", "--json"))
    assert rows[0]["params"] == 22_050_664
    assert {row["plugin"] for row in rows} == {"vitzoo"}
    tagged = json.loads(out_of("models", "vit_small_patch16_224.*", "--json"))
    assert all(row["name"].startswith("vit_small_patch16_224.") and row["params"] is None for row in tagged)
    assert "No model matches 'zzz'." in out_of("models", "zzz")


@pytest.mark.parametrize("columns", [{}, {"COLUMNS": "80"}])
def test_names_are_whole_in_a_pipe_and_in_a_narrow_terminal(columns: dict[str, str], monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    done = run("models", "*siglip*.*", **columns)
    assert set(vitzoo.list_models("*siglip*.*")) <= set(done.stdout.split())


def test_models_and_info_show_licences_and_checkpoints() -> None:
    (row,) = json.loads(out_of("models", "vit_small_patch16_224", "--json"))
    assert (row["license"], row["default_tag"], row["tags"]) == ("apache-2.0", "augreg_in21k_ft_in1k", 4)
    assert row["weights"] == "hf-hub:timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    arguments = ("models", "vit_base_patch16_224", "--pretrained", "--license", "non-commercial", "--json")
    (mae,) = json.loads(out_of(*arguments))
    assert (mae["name"], mae["license"], mae["arxiv"]) == ("vit_base_patch16_224.mae", "cc-by-nc-4.0", "2111.06377")
    data = json.loads(out_of("info", "vit_base_patch16_224", "--json"))
    assert data["default"] == "hf-hub:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert data["tags"]["mae"]["url"] == "https://huggingface.co/timm/vit_base_patch16_224.mae"
    assert (data["tags"]["mae"]["license"], data["tags"]["mae"]["gated"]) == ("cc-by-nc-4.0", False)
    text = " ".join(out_of("info", "vit_base_patch16_224.mae").split())
    assert "licence of weights cc-by-nc-4.0 (non-commercial)" in text
    assert "default weights hf-hub:timm/vit_base_patch16_224.mae" in text
    assert "none: no public checkpoint is known" in out_of("info", "vit_large_patch14_224")


def test_info_shows_settings_costs_source_and_licence() -> None:
    data = json.loads(out_of("info", "vit_base", "--json"))
    assert data["name"] == "vit_base_patch16_224"
    assert data["cost"]["params"] == 86_567_656
    assert data["arxiv"] == "2010.11929"
    assert data["config"]["embed_dim"] == 768
    text = out_of("info", "vit_tiny", "--img-size", "192x256", "--batch-size", "2")
    assert "forward at 2 x 192x256" in text
    assert "GMACs" in text
    assert "MiB in float32" in text
    assert "licence of weights" in text
    tagged = json.loads(out_of("info", "vit_small_patch16_224.augreg_in1k", "--json"))
    assert tagged["config"]["mlp"] == "gelu_tanh"
    assert list(tagged["tags"]) == ["augreg_in1k"]


def test_plugins_says_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row["name"] for row in json.loads(out_of("plugins", "--json"))] == list(vitzoo.plugins())
    monkeypatch.setattr("vitzoo.cli.plugins.installed_plugins", dict)
    assert "No plugin is installed." in out_of("plugins")
    assert json.loads(out_of("plugins", "--json")) == []


def test_doctor_says_what_is_here() -> None:
    report = json.loads(out_of("doctor", "--json"))
    assert report["versions"]["vitzoo"] == vitzoo.__version__
    assert report["broken"] == []
    backends = {row["name"]: row for row in report["attention"]}
    assert "cpu" in backends["sdpa"]["runs_on"]
    if not torch.cuda.is_available():
        assert backends["triton"]["runs_on"] == []
        assert "device=cpu (supported: cuda)" in backends["triton"]["reasons"]
    text = " ".join(out_of("doctor").split())
    assert "To run the kernel slowly on a CPU, set TRITON_INTERPRET=1" in text


@pytest.mark.interpreter
def test_the_doctor_checks_what_the_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(out_of("doctor", "--json"))["kernel"] == [
        {"device": "cpu", "case": "float32, 2 images of 37 tokens, head_dim 16", "ran": True, "ok": True, "detail": ""}
    ]
    assert "right" in out_of("doctor")

    def miscompiled(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        out, lse = vitzoo_kernels.attention_reference(q, k, v, **options)
        return out * 61 / 64, lse

    monkeypatch.setattr(vitzoo_kernels, "attention", miscompiled, raising=False)
    done = runner.invoke(app_for(()), ["doctor", "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["broken"] == ["the kernel"]
    (check,) = report["kernel"]
    assert not check["ok"]
    assert check["ran"]
    assert "out (2, 37, 2, 16) torch.float32: over the budget in max and mean" in check["detail"]
    assert (
        "use another backend than triton here; another Triton, or TRITON_PTXAS_PATH with ptxas >= 13.3"
        in check["detail"]
    )

    def too_large(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(vitzoo_kernels, "attention", too_large, raising=False)
    (check,) = json.loads(runner.invoke(app_for(()), ["doctor", "--json"]).stdout)["kernel"]
    # Nothing was computed, so that nothing speaks against the kernel.
    assert (check["ran"], check["ok"], check["detail"]) == (False, False, "OutOfMemoryError: CUDA out of memory.")
    assert "did not run" in " ".join(runner.invoke(app_for(()), ["doctor"]).stdout.split())


def test_the_doctor_exits_with_one_when_a_plugin_is_broken() -> None:
    done = run("doctor", "--json", VITZOO_PLUGINS="ghost")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["broken"] == ["ghost"]
    assert report["environment"]["VITZOO_PLUGINS"] == "ghost"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "vit_smal"], 1, "error: unknown model 'vit_smal'. Did you mean 'vit_small'"),
        (["info", "vit_tiny", "--img-size", "225"], 1, "does not divide into patches of 16x16"),
        (["info", "swin/tiny", "--img-size", "384"], 1, "is a plugin's own model, of which only"),
        (["info", "vit_tiny", "--img-size", "big"], 2, "is neither a side such as 384 nor a height and width"),
        (
            ["models", "--license", "gpl"],
            1,
            "error: no model has the licence 'gpl' (kinds: permissive, non-commercial,",
        ),
        (["models", "--plugin", "acme"], 1, "error: unknown plugin 'acme'."),
        (["modles"], 2, "No such command 'modles'"),
        (["predict", "photo.jpg"], 2, "Missing option '--weights'"),
        ([], 2, ""),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "",
)
def test_errors_go_to_stderr_with_an_exit_code_and_no_traceback(arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments, COLUMNS="200")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_traceback_is_shown_when_asked_for() -> None:
    done = run("--traceback", "info", "vit_smal")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "vit_tiny*"], ["plugins"]])
def test_what_needs_no_torch_does_not_import_it(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from vitzoo.cli import main\n"
        f"sys.argv = ['vitzoo', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return a small photograph-like file."""
    path = tmp_path / "photo.png"
    Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50).save(path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a saved small model."""
    vitzoo.save(small("vit"), tmp_path / "model")
    return tmp_path / "model"


def test_predicting_from_a_saved_model_with_labels(photo: Path, weights: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    rows = json.loads(out_of("predict", str(photo), "--weights", str(weights), "--labels", str(labels), "--json"))
    classes = rows[0]["classes"]
    assert {row["name"] for row in classes} == {"ant", "bee", "cat", "dog", "eel"}
    assert sum(row["probability"] for row in classes) == pytest.approx(1, abs=1e-5)

    model = vitzoo.load(weights).eval()
    image = vitzoo.transforms(model)(Image.open(photo).convert("RGB"))
    assert classes[0]["class"] == model(image[None]).argmax().item()
    table = out_of("predict", str(photo), str(photo), "--weights", str(weights), "--top-k", "2")
    assert table.count("photo.png") == 2


def test_predicting_imagenet_classes_by_name(photo: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "num_classes": 1000}
    vitzoo.save(vitzoo.create("vit_tiny", **settings), tmp_path / "imagenet")
    rows = json.loads(out_of("predict", str(photo), "--weights", str(tmp_path / "imagenet"), "--json"))
    assert rows[0]["names"] == "ImageNet-1k's, for the checkpoint has 1000 classes and names none"
    for row in rows[0]["classes"]:
        assert row["name"] == ViT_B_16_Weights.DEFAULT.meta["categories"][row["class"]]


def test_predicting_with_the_names_of_the_checkpoint(photo: Path, weights: Path, tmp_path: Path) -> None:
    text = out_of("predict", str(photo), "--weights", str(weights))
    assert "names: none in the checkpoint; give them with --labels FILE" in text
    model = vitzoo.load(weights)
    model.labels = ("ant", "bee", "cat", "dog", "eel")
    vitzoo.save(model, tmp_path / "named")
    rows = json.loads(out_of("predict", str(photo), "--weights", str(tmp_path / "named"), "--json"))
    assert rows[0]["names"] == "the checkpoint's own"
    assert {row["name"] for row in rows[0]["classes"]} == set(model.labels)


def bad(kind: str, folder: Path, photo: Path, weights: Path) -> list[str]:
    """Return arguments of a prediction that cannot be made."""
    file = folder / "file"
    if kind == "text":
        file.write_text("not an image")
        return [str(file), "--weights", str(weights)]
    if kind == "truncated":
        file.write_bytes(photo.read_bytes()[:200])
        return [str(file), "--weights", str(weights)]
    if kind == "missing":
        return [str(photo), str(folder / "nothing.png"), "--weights", str(weights)]
    if kind == "labels":
        file.write_text("one\ntwo\n")
        return [str(photo), "--weights", str(weights), "--labels", str(file)]
    if kind == "unnamed":
        return [str(photo), "--weights", str(weights / "model.safetensors")]
    model = small(
        "vit", **({"in_chans": 5} if kind == "channels" else {"num_classes": 0} if kind == "features" else {})
    )
    if kind == "nan":
        model.head.bias.data[0] = float("nan")
    vitzoo.save(model, folder / "bad")
    return [str(photo), "--weights", str(folder / "bad")]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "is not an image that Pillow can read"),
        ("truncated", "cannot be read as an image"),
        ("missing", "nothing.png' cannot be read as an image: [Errno 2] No such file"),
        ("labels", "names 2 classes; the model has 5"),
        ("unnamed", "If the file does not tell its model, name it with --model"),
        ("channels", "an image file has 1 or 3 channels; the model takes in_chans=5"),
        ("features", "this model gives features, not classes"),
        ("nan", "the model gave NaN or infinity for"),
    ],
)
def test_a_prediction_that_cannot_be_made_says_why_and_prints_nothing(
    kind, words, tmp_path, photo, weights, capsys
) -> None:
    with pytest.raises(VitzooError) as caught:
        runner.invoke(app_for(()), ["predict", *bad(kind, tmp_path, photo, weights)], catch_exceptions=False)
    assert words in str(caught.value)
    assert capsys.readouterr().out == ""


def test_an_image_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitzoo.cli.predict import read_image

    path = tmp_path / "wide.png"
    Image.new("1", (200, 200)).save(path)
    for limit in (30_000, 10_000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match="is too large to be safe"):
            read_image(path)


def test_an_image_of_16_bits_is_refused(tmp_path: Path) -> None:
    from vitzoo.cli.predict import read_image

    for mode in ("I;16", "F"):
        path = tmp_path / "deep.tif"
        Image.new(mode, (20, 20)).save(path)
        with pytest.raises(ImageError, match=f"deep.tif' has more than 8 bits a channel .*'{mode}'.*: scale it to 8"):
            read_image(path)


def test_weights_of_another_model_are_refused_before_anything_is_printed(photo: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    done = run("predict", str(photo), "--model", "vit_tiny", "--weights", str(tmp_path / "other.safetensors"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "are of no format that vitzoo knows; nothing was loaded" in done.stderr


def refused(*arguments: str) -> str:
    """Run the command in this process and return the words that it refuses with."""
    with pytest.raises(VitzooError) as caught:
        runner.invoke(app_for(()), arguments, catch_exceptions=False)
    return str(caught.value)


@pytest.mark.parametrize("device", ["meta", "foo"])
def test_a_device_that_cannot_compute_is_refused(device: str, photo: Path, weights: Path) -> None:
    words = refused("predict", str(photo), "--weights", str(weights), "--device", device)
    assert f"device '{device}' cannot be used here: " in words


@pytest.mark.parametrize("name", ["format", "path", "dtype", "device"])
def test_what_is_no_setting_is_not_set(name: str, weights: Path, tmp_path: Path) -> None:
    words = f"--set '{name}=x': {name} is no setting of a model"
    assert words in refused("convert", str(weights), str(tmp_path / "out"), "--to", "vitzoo", "--set", f"{name}=x")
    assert words in refused("verify", str(weights), "--set", f"{name}=x")


def test_where_nothing_can_be_written_is_said_before_anything_is_computed(photo: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "nothing" / "out.json"):
        assert f"'{out}' cannot be written: " in refused("verify", "no_such_checkpoint", "--out", str(out))
    assert f"the folder '{photo}' cannot be made: " in refused("demo", "--out", str(photo))


def test_a_file_that_tells_its_model_needs_no_name(photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "vision.safetensors"
    # A width that was published tells the number of heads.
    model = vitzoo.create("vit_tiny", **{**SMALL, "embed_dim": 192, "num_heads": 3, "depth": 1})
    vitzoo.save(model, file, format="torchvision")
    assert len(json.loads(out_of("predict", str(photo), "--weights", str(file), "--json"))[0]["classes"]) == 5


def test_labels_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    from vitzoo.cli.predict import class_names

    with pytest.raises(InputError, match="cannot be read"):
        class_names(small("vit"), tmp_path / "nothing.txt")
