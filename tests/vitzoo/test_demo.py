"""The demo, cut to two epochs: all its files, its failures, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vitzoo
from vitzoo.attention.caps import AttentionCaps
from vitzoo.cli.app import app_for
from vitzoo.demo import compare as compare_module
from vitzoo.demo.compare import compare
from vitzoo.demo.digits import jitter, load_digits, require_extras
from vitzoo.demo.run import Outcome
from vitzoo.demo.train import evaluate, train
from vitzoo.errors import MissingPackageError

FILES = {"curves.png", "digits.png", "backends.json", "summary.json", "model"}


def test_two_epochs_write_everything_and_fail_for_their_accuracy(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner(env={"COLUMNS": "160"}).invoke(
        app_for(()), ["demo", "--epochs", "2", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 1
    printed = " ".join(result.output.split())
    assert "97% was wanted" in printed
    assert "the same logits, bit for bit" in printed
    assert "sdpa ran 197 queries x 197 keys" in printed
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("curves.png", "digits.png"):
        with Image.open(out / name) as picture:
            picture.load()
            assert min(picture.size) > 200
    summary = json.loads((out / "summary.json").read_text())
    assert summary["epochs"] == len(summary["history"]) == 2
    assert summary["same_after_loading"] is True
    assert len(summary["failures"]) == 1
    backends = {row["backend"]: row for row in json.loads((out / "backends.json").read_text())}
    assert {name for name, row in backends.items() if row["available"] and row["same_predictions"]} >= {
        "reference",
        "sdpa",
    }
    if sys.platform == "linux":
        assert backends["triton"]["same_predictions"] is True
    assert sorted(path.name for path in (out / "model").iterdir()) == ["config.json", "model.safetensors"]
    digits = load_digits()
    accuracy = evaluate(vitzoo.load(out / "model"), digits.held_out_images, digits.held_out_labels)[1]
    assert accuracy == summary["accuracy"]


def test_the_split_is_fixed_and_training_repeats() -> None:
    digits = load_digits()
    assert (len(digits.train_images), len(digits.held_out_images)) == (1437, 360)
    assert torch.bincount(digits.held_out_labels).min() >= 35
    first, second = (train(digits, epochs=1, seed=3)[1][0] for _ in range(2))
    assert first == second


def test_jitter_leaves_some_images_sharp_and_none_unrecognisable() -> None:
    images = load_digits().train_images[:200]
    moved = jitter(images, torch.Generator().manual_seed(0))
    untouched = (moved == images).flatten(1).all(dim=1).float().mean()
    assert 0.1 < untouched < 0.3
    assert (moved - images).abs().mean() < 0.5


def test_a_backend_that_cannot_run_is_reported_and_one_that_is_wrong_fails(tmp_path, monkeypatch, registry) -> None:
    model = vitzoo.create(
        "vit_tiny", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, num_heads=2, depth=1
    )
    vitzoo.save(model.eval(), tmp_path / "model")
    caps = AttentionCaps(devices=("cpu",), dtypes=("float32",), head_dims=None, backward=True)
    vitzoo.register("attention", "lab/wrong", caps=caps)(lambda q, k, v: v.flip(1).contiguous() * 9)
    absent = AttentionCaps(packages=(("a_package_nobody_has", "1.0"),))
    vitzoo.register("attention", "lab/absent", caps=absent)(lambda q, k, v: v)
    monkeypatch.setattr(compare_module, "BACKENDS", ("reference", "lab/wrong", "lab/absent"))
    right, wrong, missing = compare(tmp_path / "model", torch.randn(8, 1, 8, 8))
    assert right.agrees
    assert wrong.available
    assert not wrong.agrees
    assert (missing.available, missing.agrees) == (False, False)
    assert "not available: a_package_nobody_has is not installed" in missing.detail
    outcome = Outcome(accuracy=1.0, seconds=1.0, agreements=[right, wrong, missing], same_after_loading=False, photo={})
    assert [failure.split(":")[0] for failure in outcome.failures()] == [
        "backend lab/wrong does not agree with the reference",
        "the loaded model does not give the saved model's logits",
    ]


def test_a_child_that_fails_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the triton backend failed in its child process"):
        compare_module.in_child(tmp_path, torch.zeros(1, 1, 8, 8), "triton")
    assert list(tmp_path.iterdir()) == []


def test_missing_extras_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitzoo.demo.digits.find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r'the demo needs scikit-learn and matplotlib: pip install "vitzoo\[demo\]"'
    ):
        require_extras()


def test_ctrl_c_leaves_no_half_written_file(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "vitzoo", "demo", "--epochs", "500", "--out", str(out)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80"},
        # Tests that a shell runs in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        try:
            deadline = time.monotonic() + 60
            while not out.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    # CPython lets the signal itself end `python -m` when it fell into an exec(); a shell reports both as 130.
    assert child.returncode in (130, -signal.SIGINT), errors
    assert b"Traceback" not in errors
    assert list(out.iterdir()) == []
