"""What the compiler says of shipped configurations, and how the fastest is chosen. No GPU."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.driver import driver

from benchmarks import ahead_of_time, choose, codegen, kernels, tables, tune

compiles = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET unset: the interpreter does not compile"
)


@pytest.mark.parametrize(
    ("usage", "shared", "warps", "problem"),
    [
        ((128, 0), 99 * 1024, 8, None),
        ((255, 8), 0, 8, "spills 8 bytes of registers"),
        ((255, 0), 0, 16, "255 registers x 16 warps pass the 65536 of a multiprocessor"),
        ((128, 0), 99 * 1024 + 1, 8, "101377 bytes of shared memory pass the 101376 of sm_120"),
    ],
)
def test_each_limit_is_named_when_it_is_broken(usage, shared, warps, problem):
    compiled = SimpleNamespace(asm={"ptx": ""}, metadata=SimpleNamespace(shared=shared))
    launch = ahead_of_time.Launch(None, {"num_warps": warps})
    program = ahead_of_time.Program(launch, 120, compiled)
    vars(program)["usage"] = usage
    assert program.problems == (() if problem is None else (problem,))


def test_narrow_loads_and_serialized_products_are_seen():
    ptx = "ld.global.b16 {x};\nld.global.L1::evict_first.v4.b32 {y};\ncp.async.cg.shared.global [a], [b], 0x10;\n"
    assert len(ahead_of_time.NARROW_LOAD.findall(ptx)) == 1
    said = "ptxas info : (C7515) Potential Performance Loss: wgmma.mma_async are serialized due to"
    assert ahead_of_time.SERIALIZED.search(said)


@compiles
def test_what_ships_is_compiled_as_the_launcher_asks_and_nothing_stays_patched():
    rows = codegen.compile_job((90, "plain", "bf16", 64, [197, 197]))
    names = ["attention_forward_kernel", "attention_backward_whole_kernel", "attention_forward_whole_kernel"]
    assert [row.name.split()[1] for row in rows] == names
    assert all("wgmma.mma_async" in row.line and row.problems == () for row in rows)
    assert "BLOCK_M=64" in rows[0].line
    with pytest.raises(ValueError, match="attention got tensors on cpu"):
        kernels.attention(*torch.zeros(1, 5, 3, 1, 64).unbind(2))


@compiles
def test_the_launcher_can_do_without_the_kernels_for_whole_heads():
    call = ahead_of_time.Call(dtype=torch.bfloat16, head_dim=64, num_queries=197, num_keys=197, batch=128)

    def names():
        return [
            launch.name.removeprefix("attention_").removesuffix("_kernel")
            for launch in ahead_of_time.launches_of(call, 90)
        ]

    assert names() == ["forward_whole", "backward_whole"]
    with kernels.without(["forward_whole"]):
        assert names() == ["forward", "backward_whole"]
    with kernels.without(kernels.WHOLE):
        assert names() == ["forward", "backward_q", "backward_kv"]
    assert kernels.buckets("forward_whole") == [128, 256, 272]
    assert kernels.buckets("backward_whole") == [64, 128, 256, 272]
    assert kernels.buckets("forward") == list(kernels.BUCKETS)


@compiles
def test_the_bare_launch_is_seen_though_the_same_call_was_made_before(monkeypatch):
    launched = []

    class Program:
        function = packed_metadata = None
        run = print

        def __getitem__(self, grid):
            return lambda *arguments: launched.append((grid, arguments[0]))

    gpu = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 0)
    monkeypatch.setattr(driver, "_active", gpu)
    monkeypatch.setattr(ahead_of_time.planning, "_check_device", lambda q: None)
    monkeypatch.setattr(kernels.JITFunction, "run", lambda kernel, *args, **kwargs: Program())
    q, k, v = torch.randn(1, 5, 3, 1, 64).unbind(2)
    kernels.attention(q, k, v)
    kernels.bare_forward(q, k, v)()
    assert launched == [((1, 1, 1), q.data_ptr())]


@compiles
def test_tiles_that_spill_are_dropped_before_they_are_timed():
    problem = kernels.Problem("forward", "bf16", 128, 768)
    shipped = kernels.candidates(problem, 90)[0]
    large = kernels.TileConfig(block_m=128, block_n=64, num_warps=4, num_stages=1)
    assert choose.why_not(problem, shipped, 90) is None
    assert "spills" in choose.why_not(problem, large, 90)
    # Four warps of which a multiprocessor has room for no second program have nothing to do while they wait.
    lone = kernels.TileConfig(block_m=64, block_n=64, num_warps=4, num_stages=4)
    assert "bytes of shared memory leave a multiprocessor four warps" in choose.why_not(problem, lone, 90)
    with kernels.configured(problem, large):
        assert kernels.shipped(problem, 90) == large
    assert kernels.shipped(problem, 90) == shipped


@compiles
def test_the_whole_backward_is_tuned_with_all_keys_in_one_tile():
    problem = kernels.Problem("backward_whole", "bf16", 64, 272)
    shipped, *others = kernels.candidates(problem, 90)
    assert kernels.TileConfig(64, 272, 8, 1) in others
    assert {tiles.block_n for tiles in (shipped, *others)} == {272}
    calls = kernels.timed_calls(tune.shape_of(problem), torch.bfloat16)
    for tiles in (shipped, kernels.TileConfig(16, 272, 8, 1)):
        launches = kernels.launches(problem, tiles, 90, calls)
        assert [launch.arguments["BLOCK_M"] for launch in launches] == [tiles.block_m] * 2


@compiles
def test_what_is_timed_is_compiled_in_another_process(monkeypatch):
    seen = []
    monkeypatch.setattr(tune, "why_not", lambda problem, tiles, capability: None)
    monkeypatch.setattr(tune, "compiled", lambda launch, capability: seen.append((launch.name, launch.arguments)))
    tiles = kernels.TileConfig(block_m=32, block_n=64, num_warps=4, num_stages=1)
    assert tune.prepare(kernels.Problem("backward_q", "bf16", 64, 256), tiles, 90) is None
    found = [(name, arguments["BLOCK_M"], arguments["num_heads"].value) for name, arguments in seen]
    assert found == [("attention_backward_q_kernel", 32, 12)] * 2


def test_the_first_that_breaks_no_limit_is_chosen_and_fewer_keys_come_before_more(monkeypatch):
    monkeypatch.setattr(
        choose, "why_not", lambda problem, tiles, capability: "spills" if tiles.num_warps == 4 else None
    )
    _, (entry,), said = choose.choose(90, "forward", "plain", "16", 64)
    assert entry["tiles"] == [64, 64, 8, 2]
    assert "after 4 others" in said
    spills = "spills {} bytes of registers"
    monkeypatch.setattr(choose, "why_not", lambda problem, tiles, capability: spills.format(tiles.block_n))
    _, (entry,), _ = choose.choose(90, "forward", "plain", "16", 112)
    assert (entry["tiles"], entry["breaks"]) == ([16, 16, 4, 1], "spills 16 bytes of registers")
    monkeypatch.setattr(choose, "why_not", lambda problem, tiles, capability: "spills" if tiles.block_n > 128 else None)
    _, entries, _ = choose.choose(90, "backward_whole", "plain", "16", 64)
    assert [(entry["max_tokens"], entry["tiles"]) for entry in entries] == [
        (64, [32, 64, 4, 1]),
        (128, [32, 128, 4, 1]),
    ]


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


def test_a_table_is_sorted_and_keeps_what_was_timed(tmp_path):
    path = tmp_path / "data" / tables.path_of(90, "3.6.0+git1").name
    assert path.name == "sm90-triton3.6.json"

    def entry(head_dim, warps, **measured):
        problem = kernels.Problem("forward", "bf16", head_dim, 64)
        return tables.entry_of(problem, kernels.TileConfig(64, 64, warps, 1), **measured)

    tables.write_entries(path, [entry(128, 1), entry(64, 1)])
    tables.write_entries(path, [entry(128, 2, measured_on={"device": "a GPU"}), entry(80, 1)])
    tables.write_entries(path, [entry(128, 4), entry(80, 4)])
    assert len(path.read_text().splitlines()) == 5
    found = [(e["head_dim"], e["tiles"][2]) for e in json.loads(path.read_text())["entries"]]
    assert found == [(64, 1), (80, 4), (128, 2)]
    timed = [tables.is_timed(path, kernels.Problem("forward", "bf16", *sizes)) for sizes in ((128, 64), (128, 256))]
    assert timed == [True, False]
    assert not tables.is_timed(path, kernels.Problem("forward", "bf16", 80, 64))
    tables.write_entries(path, [], drop=kernels.Problem("forward", "bf16", 80, 64).key)
    tables.write_entries(path, [], drop=kernels.Problem("forward", "bf16", 128, 64).key)
    assert [e["head_dim"] for e in json.loads(path.read_text())["entries"]] == [64, 128]


def test_tuning_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tune"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main() == 1
    assert "tuning needs a CUDA GPU" in capsys.readouterr().err
