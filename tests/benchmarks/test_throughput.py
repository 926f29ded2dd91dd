"""The benchmark of whole models on a GPU, as far as a CPU can tell: its order, its checks, its words."""

import json

import pytest
import torch

from benchmarks import model, throughput
from benchmarks.throughput import Case

CPU = {"vitzoo sdpa": "sdpa", "timm": None}


def test_what_matters_most_comes_first_and_compiling_last():
    found = throughput.cases()
    assert found[0] == Case("vit_base_patch16_224", 224, 256, False, False)
    assert len(found) == len(set(found)) == len(throughput.MODELS) * len(throughput.BATCHES) * 4
    assert sorted(found, key=lambda case: case.compiled) == found


@pytest.mark.parametrize("training", [False, True])
def test_a_case_is_checked_and_timed_in_turns(training):
    row = throughput.measure(Case("test_vit", 160, 2, False, training), CPU, torch.device("cpu"), quick=True)
    assert (row["model"], row["batch"], row["training"]) == ("test_vit", 2, training)
    for found in row["candidates"].values():
        assert found["images_per_s"] > 0
        assert found["peak_bytes"] is None
    assert row["candidates"]["timm"]["ratio"] == [1.0, 1.0, 1.0]
    assert f"test_vit                       160 B2   eager    {'training' if training else 'inference'}" in (
        throughput.line(row)
    )


def test_a_model_that_computes_something_else_is_not_timed():
    found = {"vitzoo": {"error": 0.5}, "timm": {"error": 0.01}}
    with pytest.raises(AssertionError, match=r"vitzoo of .*vit_tiny.*: wrong by 0.5, allowed 0.02"):
        throughput.right(Case("vit_tiny", 32, 1, False, False), found)


class WrongLater(torch.nn.Module):
    """A model that computes something else once it is what is timed."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) + self.training


def test_what_is_timed_is_checked_too(monkeypatch):
    build = throughput.build

    def wrong(case, attn, plain, device):
        model = build(case, attn, plain, device)
        return model if attn is None else WrongLater(model)

    monkeypatch.setattr(throughput, "build", wrong)
    with pytest.raises(AssertionError, match="vitzoo sdpa of .*: wrong by 1"):
        throughput.measure(Case("test_vit", 160, 2, False, True), CPU, torch.device("cpu"), quick=True)


class TooLarge(torch.nn.Module):
    """A model whose forward does not fit."""

    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmuch")


@pytest.mark.parametrize("where", ["build", "forward", "timm", "peak"])
def test_what_does_not_fit_ends_its_own_run_alone(where, monkeypatch):
    build = throughput.build

    def too_large(case, attn, plain, device):
        if where == "build" and attn == "sdpa":
            TooLarge()(None)
        ends = attn == {"forward": "sdpa", "timm": None}.get(where, "nobody")
        return TooLarge() if ends else build(case, attn, plain, device)

    monkeypatch.setattr(throughput, "build", too_large)
    if where == "peak":
        monkeypatch.setattr(throughput, "peak", lambda step, device: TooLarge()(None))
    row = throughput.measure(Case("test_vit", 160, 2, False, False), CPU, torch.device("cpu"), quick=True)
    reasons = {name: found.get("reason") for name, found in row["candidates"].items()}
    reason = "CUDA out of memory. Tried to allocate"
    unchecked = "not timed: timm's own error is the measure, and timm's model did not fit"
    assert (
        reasons
        == {
            "build": {"vitzoo sdpa": reason, "timm": None},
            "forward": {"vitzoo sdpa": reason, "timm": None},
            "timm": {"vitzoo sdpa": unchecked, "timm": reason},
            "peak": {"vitzoo sdpa": reason, "timm": reason},
        }[where]
    )
    assert throughput.line(row).count("/s") == sum(reason is None for reason in reasons.values())


def test_without_a_budget_nothing_runs_and_all_is_named(tmp_path, capsys):
    throughput.run(torch.device("cpu"), quick=True, budget_s=0, commit="here", out=tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["rows"], len(record["not_run"])) == ([], 4)
    assert capsys.readouterr().out == "4 cases not reached\n"


def test_a_case_that_fails_is_named_and_the_others_are_measured(monkeypatch, tmp_path, capsys):
    def measured(case, candidates, device, *, quick):
        if case.training:
            raise AssertionError("vitzoo is wrong by 1\nallowed 0")
        return {"model": case.model, "size": 1, "batch": 1, "compiled": False, "training": False, "candidates": {}}

    monkeypatch.setattr(throughput, "measure", measured)
    options = {"quick": True, "budget_s": 10, "commit": "here", "out": tmp_path / "out.json"}
    assert throughput.run(torch.device("cpu"), **options) == 1
    record = json.loads((tmp_path / "out.json").read_text())
    reasons = [(failed["training"], failed["reason"]) for failed in record["failed"]]
    assert reasons == [(True, "AssertionError: vitzoo is wrong by 1")] * 2
    assert (len(record["rows"]), record["not_run"]) == (2, [])
    assert throughput.run(torch.device("cpu"), **options, modes=["eager"]) == 1
    assert len(json.loads((tmp_path / "out.json").read_text())["failed"]) == 1
    assert "wrong by 1" in capsys.readouterr().err


def test_what_a_cpu_would_ignore_is_refused(monkeypatch, capsys):
    for option in (["--budget-s", "10"], ["--modes", "eager"], ["--commit", "here"]):
        monkeypatch.setattr("sys.argv", ["benchmarks.model", "--cpu", *option])
        with pytest.raises(SystemExit):
            model.main()
        assert f"{option[0]} goes with --gpu" in capsys.readouterr().err


def test_what_did_not_fit_is_said_with_its_reason():
    found = {
        "vitzoo": {"images_per_s": 1234.56, "peak_bytes": 2**30, "ratio": [1.1, 1.0, 1.2]},
        "timm": {"reason": "CUDA out of memory."},
    }
    assert list(throughput.cells(found)) == ["| vitzoo 1234.6/s 1024 MiB 1.100x", "| timm: CUDA out of memory."]
