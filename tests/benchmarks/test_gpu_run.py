"""The steps of a run on a GPU: their order, their clocks, and what each leaves. No GPU."""

import argparse
import importlib
import json
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Step


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs steps of one folder and returns the status and (step, how it ended) of all so far."""
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.1)

    def run(steps, *options):
        monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path), "--commit", "abc", *options])
        status = gpu.main(steps)
        results = json.loads((tmp_path / "summary.json").read_text())["steps"]
        return status, [(result["step"], result["ended"]) for result in results]

    return run


def test_a_failure_stops_nothing_and_a_later_call_runs_what_is_left(run, tmp_path, capsys):
    steps = [
        Step("fails", 20, "-c raise(SystemExit(3))"),
        Step("endless", 20, "-c print('{budget}','{commit}')", unending=True),
        Step("late", 20, "-c print('late')"),
    ]
    first = [("fails", "exit status 3"), ("endless", "exit status 0")]
    assert run(steps, "--skip", "late") == (1, first)
    assert capsys.readouterr().out.endswith("not reached: late\n")
    assert run(steps) == (0, [*first, ("late", "exit status 0"), ("endless", "exit status 0")])
    assert run(steps, "--steps", "fails")[1][4:] == [("fails", "exit status 3")]
    log = (tmp_path / "logs.txt").read_text()
    assert "==== late: -c print('late')\nlate\n" in log
    assert "19.9 abc\n" in log
    assert json.loads((tmp_path / "summary.json").read_text())["steps"][2]["tail"] == ["late"]


def test_a_step_is_stopped_in_time_with_all_that_it_started(run, tmp_path):
    starts = "__import__('subprocess').Popen(['sleep','60'])"
    steps = [
        Step("slow", 1.5, f"-c print({starts}.pid,flush=True),__import__('time').sleep(60)"),
        Step("next", 20, "-c print(1)"),
        Step("too late", 20, "-c print(1)"),
    ]
    started = time.monotonic()
    assert run(steps[:2]) == (1, [("slow", "stopped after 2 s"), ("next", "exit status 0")])
    assert time.monotonic() - started < 10
    pid = int((tmp_path / "logs.txt").read_text().splitlines()[2])
    time.sleep(0.2)
    # Gone, or dead and not yet asked for by whoever inherited it.
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    assert run(steps, "--budget-s", "0")[1][2:] == []


def test_nothing_more_is_measured_where_attention_has_no_rows(run, tmp_path):
    steps = [Step("attention", 20, "-c 1"), Step("next", 20, "-c 1")]
    assert run(steps) == (0, [("attention", "exit status 0")])
    (tmp_path / "attention.json").write_text('{"rows": [1]}')
    assert run(steps, "--steps", "attention", "next")[1][1:] == [(s.name, "exit status 0") for s in steps]


@pytest.mark.parametrize("step", [step for step in gpu.STEPS if "benchmarks." in step.arguments], ids=lambda s: s.name)
def test_the_benchmarks_take_what_the_steps_ask(step, monkeypatch):
    values = {"out": ".", "cores": "16", "budget": "30", "commit": "abc"}
    _, module, *arguments = step.arguments.format(**values).split()
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser):
        raise InterruptedError(parse(parser))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.raises(InterruptedError):
        importlib.import_module(module).main()
