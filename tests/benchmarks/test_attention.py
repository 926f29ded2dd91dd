"""The attention benchmark: its shapes, its roofline, its judgement, and that it runs on tiny sizes without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import attention, machine, peers, shapes
from benchmarks.calls import draw_inputs, make_call
from benchmarks.correct import Judge, sampled_heads
from benchmarks.shapes import Cost, Shape

ROOT = Path(__file__).resolve().parents[2]


TINY = ["--quick", "--device", "cpu", "--dtype", "fp32", "--tokens", "9", "--peers", "vitzoo", "sdpa", "cudnn", "fa3"]


@pytest.fixture(scope="module")
def both_suites(tmp_path_factory):
    """Run both suites on tiny sizes in one process, under Triton's interpreter; return what they printed and wrote."""
    folder = tmp_path_factory.mktemp("results")
    code = "import sys\nfrom benchmarks import attention\noptions = sys.argv[1:]\nfor suite in ('vit', 'launch'):\n"
    code += "    sys.argv = ['attention', '--suite', suite, *options]\n    assert attention.main() == 0\n"
    options = [*TINY, "--commit", "abc-dirty", "--out", str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, cwd=ROOT, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = {path.name.partition("-")[0]: json.loads(path.read_text()) for path in folder.iterdir()}
    return done.stdout, records


def test_the_roofline_of_a_vit_base_layer():
    shape = Shape(batch=128, tokens=197, heads=12, head_dim=64)
    # By hand: 302,592 rows of 64 numbers of 2 bytes, 38,731,776 bytes a tensor; lse 1,210,368 bytes.
    assert shapes.cost(shape, "forward", 2) == Cost(bytes=4 * 38_731_776 + 1_210_368, flops=4 * 302_592 * 197 * 64)
    assert shapes.cost(shape, "backward", 2) == Cost(bytes=8 * 38_731_776 + 1_210_368, flops=10 * 302_592 * 197 * 64)
    assert shapes.cost(shape, "both", 2) == Cost(bytes=467_202_048, flops=14 * 302_592 * 197 * 64)
    h200 = {"bytes_per_s": 4.3e12, "flops_per_s": 790e12}
    forward = shapes.cost(shape, "forward", 2)
    assert forward.bound(h200) == "memory"
    assert forward.floor(h200) == pytest.approx(36e-6, rel=0.02)
    long = shapes.cost(Shape(128, 577, 12, 64), "forward", 2)
    assert long.bound(h200) == "compute"
    assert long.floor(h200) == pytest.approx(166e-6, rel=0.02)


def test_the_suite_is_whole_and_starts_with_what_matters_most():
    suite = shapes.vit_suite()
    assert len(suite) == len(set(suite)) == 11 * 5 * 4
    assert suite[:2] == [Shape(128, 197, 12, 64), Shape(128, 257, 12, 64)]
    assert {shape.tokens for shape in suite[:11]} == set(shapes.TOKENS)
    assert all(shape.batch * shape.heads >= 1000 for shape in suite[:11])
    few = shapes.vit_suite(tokens=(257,), head_dims=(72,), batches=(1, 8))
    assert few == [Shape(1, 257, 16, 72), Shape(8, 257, 16, 72)]


def test_the_first_and_the_last_head_are_looked_at():
    assert sampled_heads(Shape(4, 9, 3, 64)) == [(0, 0), (2, 0), (3, 2)]
    assert sampled_heads(Shape(1, 9, 1, 64)) == [(0, 0)]


def exactly(q, k, v):
    return peers.make_peer("sdpa", Shape(1, 1, 1, 64)).attend(q, k, v)


def with_a_row_unwritten(q, k, v):
    out = exactly(q, k, v).clone()
    out[0, -1, 1] = torch.nan  # in a head that is not among those held against the truth
    return out


def with_last_head_of_its_neighbour(q, k, v):
    out = exactly(q, k, v)
    return torch.cat([out[:, :, :-1], out[:, :, :1]], dim=2)


def without_gradient_of_keys(q, k, v):
    return exactly(q, k.detach() + 0 * k, v)


@pytest.mark.parametrize(("tokens", "dtype"), [(37, torch.float32), (301, torch.bfloat16)])
@pytest.mark.parametrize(
    ("attend", "complaint"),
    [
        (exactly, None),
        (lambda q, k, v: exactly(q * 1.1, k, v), "out"),
        (lambda q, k, v: exactly(q, k[:, :-1], v[:, :-1]), "out"),
        (with_a_row_unwritten, r"out: 16 of \d+ elements are not finite"),
        (with_last_head_of_its_neighbour, "out"),
        (without_gradient_of_keys, "dk"),
    ],
)
def test_what_is_wrong_is_not_timed(attend, complaint, tokens, dtype):
    shape = Shape(1, tokens, 4, 16)
    sets = draw_inputs(shape, dtype, torch.device("cpu"), cache_bytes=0, seed=1)
    judge, peer = Judge(sets.qkv[0], sets.dout[0], shape), peers.Peer("someone", attend)
    if complaint is None:
        judge.check(peer)
    else:
        with pytest.raises(AssertionError, match=f"^{complaint}"):
            judge.check(peer)


# Each of these draws had its yardstick in two orders right by luck, and an honest result was refused.
@pytest.mark.parametrize("seed", [46, 213, 219])
def test_an_honest_result_of_few_numbers_is_timed(seed):
    shape = Shape(1, 17, 1, 16)
    sets = draw_inputs(shape, torch.float32, torch.device("cpu"), cache_bytes=0, seed=seed)
    Judge(sets.qkv[0], sets.dout[0], shape).check(peers.make_peer("sdpa", shape))


def test_each_call_reads_the_next_input_set():
    shape = Shape(1, 5, 2, 8)
    sets = draw_inputs(shape, torch.float32, torch.device("cpu"), cache_bytes=2000, seed=0)
    assert len(sets.qkv) == 1 + 5  # 960 bytes a set
    assert sets.cold
    peer = peers.make_peer("sdpa", shape)
    for direction, size in (("forward", (1, 5, 16)), ("both", (1, 5, 3, 2, 8))):
        call = make_call(peer, direction, sets)
        results = [call(i) for i in (0, 1, 6)]
        first, second, again = (x if direction == "forward" else x[0] for x in results)
        assert first.shape == size
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
    # Backward, whose forward was run before, to the three gradients whose packing "both" ends at.
    gradients = make_call(peer, "backward", sets)(7)
    assert torch.equal(torch.stack(gradients, dim=2), make_call(peer, "both", sets)(1)[0])


def test_a_peer_that_cannot_run_says_why():
    shape = Shape(8, 197, 12, 64)
    with pytest.raises(peers.Unavailable, match="^flash_attn_interface is not installed$"):
        peers.make_peer("fa3", shape)
    with pytest.raises(peers.Unavailable, match="^compiled for batch 128 and head dim 64 alone, as it takes long$"):
        peers.make_peer("flex", shape)
    with pytest.raises(ValueError, match=r"^no peer is called 'nobody' \(known: vitzoo, sdpa, cudnn,"):
        peers.make_peer("nobody", shape)


def test_clocks_are_read_from_whole_lines():
    log = "1980, 3201, 500.10, 50\n1755, 3201, 690.5, 61\n1800, 3201, [N/A], 62\n1770, 32"
    assert machine.summarize_clocks(log)["clocks.sm"] == [1755, 1867.5, 1980]
    assert machine.summarize_clocks("") == {}


def test_it_runs_on_tiny_sizes_and_writes_everything_down(both_suites):
    printed, records = both_suites
    record = records["attention"]
    assert "Each peer: its time over vitzoo's." in printed
    assert [row["direction"] for row in record["rows"]] == ["forward", "backward", "both"]
    assert record["machine"]["commit"] == "abc-dirty"
    assert record["machine"]["dirty"] is True
    for row in record["rows"]:
        ours, theirs = row["candidates"]["vitzoo"], row["candidates"]["sdpa"]
        assert ours["ratio"] == 1
        assert theirs["ratio"] == pytest.approx(theirs["median_us"] / ours["median_us"])
        assert theirs["ran"] == "flash"
        assert row["candidates"]["fa3"] == {"reason": "flash_attn_interface is not installed"}
        assert "No viable backend" in row["candidates"]["cudnn"]["reason"]
        assert not row["cold"]


def test_where_vitzoo_fails_nothing_is_printed_and_the_status_is_1(monkeypatch, capsys, tmp_path):
    # Without a GPU the kernel refuses bfloat16, under the interpreter or not.
    options = ["--quick", "--device", "cpu", "--dtype", "bf16", "--tokens", "5", "--peers", "vitzoo", "sdpa"]
    monkeypatch.setattr("sys.argv", ["attention", *options, "--commit", "abc", "--out", str(tmp_path)])
    assert attention.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vitzoo B1 N5 H2 D64 bf16: ")
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("attention-")
    assert written.name.endswith("-bf16-abc.json")
    assert len(json.loads(written.read_text())["wrong"]) == 1


@pytest.fixture
def run_quickly(monkeypatch, tmp_path):
    """Return a function that runs a few lengths without any kernel and returns the status and the record written."""
    monkeypatch.setattr(attention, "usable_peers", lambda names, shape, sets: ({}, {}))
    options = ["--quick", "--device", "cpu", "--dtype", "fp32", "--directions", "forward", "backward", "--resume"]

    def run(*tokens, measure, commit="abc"):
        monkeypatch.setattr(attention, "measure", measure)
        arguments = [*options, "--out", str(tmp_path / "out.json"), "--commit", commit, "--tokens", *map(str, tokens)]
        monkeypatch.setattr("sys.argv", ["attention", *arguments])
        return attention.main(), json.loads((tmp_path / "out.json").read_text())

    return run


def measured(usable, reasons, shape, direction, sets, *, quick):
    times = {"median_us": 1.0, "low_us": 1.0, "high_us": 1.0}
    return {**vars(shape), "direction": direction, "cold": True, "candidates": {"vitzoo": times}}


def test_a_later_run_goes_on_behind_what_ended_the_first(run_quickly):
    def ends(usable, reasons, shape, direction, sets, *, quick):
        if (shape.tokens, direction) == (7, "backward"):
            raise KeyboardInterrupt
        return measured(usable, reasons, shape, direction, sets, quick=quick)

    with pytest.raises(KeyboardInterrupt):
        run_quickly(5, 7, 9, measure=ends)
    status, record = run_quickly(5, 7, 9, measure=measured)
    assert status == 0
    assert [(row["tokens"], row["direction"]) for row in record["rows"]] == [
        (5, "forward"),
        (5, "backward"),
        (9, "forward"),
        (9, "backward"),
    ]
    assert record["begun"] == ["B1 N5 H2 D64", "B1 N7 H2 D64", "B1 N9 H2 D64"]
    assert [sorted(run) for run in record["earlier"]] == [["clocks", "machine", "peaks"]]
    with pytest.raises(ValueError, match=r"out.json is of commit abc, this run of def: name another --out"):
        run_quickly(11, measure=measured, commit="def")


def test_where_vitzoo_cannot_be_timed_the_rest_still_is(run_quickly):
    def fails(usable, reasons, shape, direction, sets, *, quick):
        if direction == "forward":
            raise RuntimeError("no kernel image\nand more")
        return measured(usable, reasons, shape, direction, sets, quick=quick)

    status, record = run_quickly(5, 7, measure=fails)
    assert status == 1
    assert [(row["tokens"], row["direction"]) for row in record["rows"]] == [(5, "backward"), (7, "backward")]
    assert record["wrong"][0] == "vitzoo B1 N5 H2 D64 fp32 forward: no kernel image"


def test_launch_costs_are_measured_for_each_kind_of_call(both_suites):
    printed, records = both_suites
    rows = records["launch"]["rows"]
    assert [row["direction"] for row in rows] == ["forward", "forward, training", "forward and backward"]
    assert all(row["candidates"]["sdpa"]["samples"] == 3 for row in rows)
    assert "fa3          flash_attn_interface is not installed" in printed
