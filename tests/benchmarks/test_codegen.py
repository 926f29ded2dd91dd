"""What the compiler says of shipped configurations, and how the fastest is chosen. No GPU."""

import json
import os

import pytest
import torch

from benchmarks import codegen, kernels, tune

compiles = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)
FACTS = {
    "registers": 128,
    "spill_bytes": 0,
    "shared_bytes": 99 * 1024,
    "instruction": "mma.sync",
    "narrow_loads": 0,
    "serialized": 0,
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"spill_bytes": 8}, "spills 8 bytes of registers"),
        ({"registers": 255, "num_warps": 16}, "255 registers x 16 warps pass the 65536 of a multiprocessor"),
        ({"shared_bytes": 99 * 1024 + 1}, "101377 bytes of shared memory pass the 101376 of sm_120"),
        ({"instruction": "-"}, "multiplies with -, not with mma.sync"),
        ({"narrow_loads": 3}, "3 loads of a single 16-bit element"),
        ({"serialized": 2}, "ptxas serializes 2 asynchronous products"),
    ],
)
def test_each_limit_is_named_when_it_is_broken(changes, problem):
    warps = changes.pop("num_warps", 8)
    found = list(codegen.broken_limits(FACTS | changes, 120, num_warps=warps, needs_tensor_cores=True))
    assert found == ([] if problem is None else [problem])


def test_narrow_loads_and_serialized_products_are_seen():
    ptx = "ld.global.b16 {x};\nld.global.L1::evict_first.v4.b32 {y};\ncp.async.cg.shared.global [a], [b], 0x10;\n"
    assert len(codegen.NARROW_LOAD.findall(ptx)) == 1
    assert codegen.SERIALIZED.search(
        "ptxas info : (C7515) Potential Performance Loss: wgmma.mma_async are serialized due to"
    )


@compiles
def test_a_launch_is_compiled_as_the_launcher_asks_and_nothing_stays_patched(monkeypatch, capsys):
    before = kernels.JITFunction.run, kernels.launch._check_device
    programs = codegen.compile_job((90, "bf16", 64, [197, 197]))
    assert programs[0].kernel == "attention_forward_kernel"
    assert len({p.kernel for p in programs}) == len(programs) > 1  # the second 197 compiles nothing new
    forward = programs[0]
    assert forward.instruction == "wgmma.mma_async"
    assert 32 < forward.registers <= 255
    assert forward.problems == ()
    assert "BLOCK_M=" in forward.config
    assert (kernels.JITFunction.run, kernels.launch._check_device) == before
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="attention got tensors on cpu"):
        kernels.attention(*torch.zeros(1, 5, 3, 1, 64).unbind(2))


@compiles
def test_a_configuration_that_spills_is_dropped_before_it_is_timed():
    problem = kernels.Problem("forward", "bf16", 128, 272)
    shipped = kernels.candidates(problem)[0]
    large = kernels.TileConfig(block_m=128, block_n=64, num_warps=4, num_stages=1)
    assert tune.why_not(problem, shipped, 90) is None
    assert "spills" in tune.why_not(problem, large, 90)
    assert kernels.candidates(problem)[0] == shipped


def test_the_search_keeps_what_ships_unless_it_is_beaten_and_never_takes_what_is_wrong():
    seconds = {"shipped": 1.0, "wrong": 0.5, "fast": 0.8, "near": 0.995, "slow": 3.0}
    rounds = []

    def times(configs, count):
        rounds.append((count, list(configs)))
        return [seconds[config] for config in configs]

    names = list(seconds)
    winner, medians = tune.search(names, times, lambda config: config != "wrong")
    assert winner == "fast"
    assert medians == {"shipped": 1.0, "fast": 0.8, "near": 0.995}
    assert rounds == [(3, names), (15, ["shipped", "fast", "near"])]
    assert tune.search(["shipped", "near"], times, lambda config: True)[0] == "shipped"
    with pytest.raises(RuntimeError, match="none of 3 configurations gives right results"):
        tune.search(names, times, lambda config: False)
    with pytest.raises(RuntimeError, match="no configuration fits the GPU"):
        tune.search([], times, lambda config: True)


def test_a_table_is_sorted_and_keeps_the_entries_that_were_not_measured_again(tmp_path):
    path = tmp_path / "data" / tune.file_name(90, "3.6.0+git1")
    assert path.name == "sm90-triton3.6.json"
    machine = dict.fromkeys(tune.MACHINE, "first")

    def entry(head_dim, median_us):
        return {"kernel": "forward", "dtype": "bf16", "head_dim": head_dim, "max_tokens": 64, "median_us": median_us}

    tune.write_table(path, machine, [entry(128, 2.0), entry(64, 1.0)])
    tune.write_table(path, dict.fromkeys(tune.MACHINE, "second"), [entry(128, 1.5)])
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    entries = json.loads(path.read_text())["entries"]
    assert [(e["head_dim"], e["median_us"], e["measured_on"]["commit"]) for e in entries] == [
        (64, 1.0, "first"),
        (128, 1.5, "second"),
    ]


def test_tuning_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tune"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main() == 1
    assert "tuning needs a CUDA GPU" in capsys.readouterr().err
