"""The benchmark of whole models on a GPU, as far as a CPU can tell: its order, its checks, its words."""

import pytest
import torch

from benchmarks import throughput
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


def test_what_did_not_fit_is_said_with_its_reason():
    found = {
        "vitzoo": {"images_per_s": 1234.56, "peak_bytes": 2**30, "ratio": [1.1, 1.0, 1.2]},
        "timm": {"reason": "CUDA out of memory."},
    }
    assert list(throughput.cells(found)) == ["| vitzoo 1234.6/s 1024 MiB 1.100x", "| timm: CUDA out of memory."]
