"""`attn="auto"` by what was measured: the kernel where it was faster, torch's attention everywhere else."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from benchmarks import attention_table
from benchmarks import crossover as writer
from vitzoo.attention import crossover, select
from vitzoo.attention.caps import AttentionProblem
from vitzoo.attention.select import Attend, Backend

# By (tokens, heads): faster up to 577 tokens, and of few heads at 197 alone.
POINTS = {(197, 12): 1.1, (197, 1536): 1.4, (577, 12): 0.9, (577, 1536): 1.0, (1025, 12): 0.8, (1025, 1536): 0.99}
PROBLEM = AttentionProblem(
    device="cuda", capability=(9, 0), dtype="bfloat16", head_dim=64, n_q=197, n_k=197, heads=1536
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in which one GPU has a file."""
    entries = [
        {"dtype": "bfloat16", "head_dim": 64, "training": False, "tokens": tokens, "heads": heads, "ratio": ratio}
        for (tokens, heads), ratio in POINTS.items()
    ]
    (tmp_path / "sm90.json").write_text(json.dumps({"entries": entries}))
    monkeypatch.setattr(crossover, "FOLDER", tmp_path)
    for cached in (crossover.read, crossover._edges):
        cached.cache_clear()
    yield
    for cached in (crossover.read, crossover._edges):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("tokens", "heads", "wins"),
    [
        (197, 12, True),
        (197, 500, True),
        (197, 9999, True),
        (197, 6, False),
        (300, 1536, True),
        (300, 500, False),
        (577, 1536, True),
        (578, 1536, False),
        (50, 1536, False),
        (4097, 1536, False),
    ],
)
def test_the_kernel_wins_where_it_was_faster_at_every_size_around(tokens: int, heads: int, wins: bool) -> None:
    assert crossover.wins(POINTS, tokens=tokens, heads=heads) is wins


def test_calls_of_one_place_have_one_answer(measured: None) -> None:
    answers: dict[tuple[int, int], set[bool]] = {}
    for tokens, heads in itertools.product(range(190, 1030, 3), (1, 6, 12, 13, 500, 1536, 1537)):
        place = crossover.place((9, 0), tokens, heads)
        answers.setdefault(place, set()).add(crossover.wins(POINTS, tokens=tokens, heads=heads))
    assert all(len(found) == 1 for found in answers.values())
    assert {True} in answers.values()
    assert crossover.place((8, 0), 197, 12) == crossover.place((8, 0), 4097, 1)


def test_auto_takes_the_kernel_where_it_was_faster(measured: None) -> None:
    pytest.importorskip("triton")
    auto = Attend("auto")
    assert [candidate.name for candidate in auto.backends] == ["triton", "sdpa"]
    assert auto.select(PROBLEM).name == "triton"
    for changes in (
        {"n_q": 1025, "n_k": 1025},
        {"n_k": 577},
        {"heads": 6},
        {"head_dim": 72},
        {"dtype": "float16"},
        {"needs_grad": True},
        {"bias": True},
        {"key_mask": True},
        {"dropout": True},
        {"capability": (10, 0)},
    ):
        assert auto.select(replace(PROBLEM, **changes)).name == "sdpa", changes
    (reason,) = auto.backends[0].reasons_against(replace(PROBLEM, n_q=1025, n_k=1025))
    assert str(reason) == "not measured to be faster here (supported: attn='triton' all the same)"
    # Who names the kernel gets it.
    slower = replace(PROBLEM, n_q=1025, n_k=1025)
    for choice in ("triton", ("triton", "auto")):
        assert Attend(choice).select(slower).name == "triton"
    # And who puts it behind "auto" gets it where nothing before it runs.
    last = Attend(("auto", "triton"))
    assert last.select(PROBLEM).name == "triton"
    assert last.select(slower).name == "sdpa"
    assert [candidate.name for candidate in last.backends] == ["triton", "sdpa", "triton"]


def test_an_exported_program_holds_torchs_attention(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crossover.read()
    assert select._is_faster(PROBLEM, crossover.read())
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not select._is_faster(PROBLEM, crossover.read())


def test_a_choice_made_during_a_call_is_not_overwritten_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = Attend("sdpa")
    chosen = Attend.select

    def chosen_meanwhile(self: Attend, problem: AttentionProblem) -> Backend:
        found = chosen(self, problem)
        monkeypatch.undo()
        self.choose("reference")
        return found

    monkeypatch.setattr(Attend, "select", chosen_meanwhile)
    q = torch.randn(1, 4, 2, 16)
    attend(q, q, q)
    assert attend.choice == "reference"
    assert attend._chosen((q, q, q), None, None, 0.0).name == "reference"


def test_nothing_measured_is_torchs_attention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crossover, "FOLDER", tmp_path)
    crossover.read.cache_clear()
    assert [candidate.name for candidate in Attend("auto").backends] == ["sdpa"]
    crossover.read.cache_clear()


def test_compiled_code_asks_once_for_every_side_of_a_crossover() -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        faster = crossover.wins(POINTS, tokens=x.shape[1], heads=x.shape[0] * 1536)
        return x + 1 if faster else x + 2

    counter = CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for tokens in (300, 310, 320, 330, 700, 710, 720):
        x = torch.zeros(2, tokens)
        assert torch.equal(compiled(x), layer(x))
    assert counter.frame_count <= 4


def test_the_files_are_made_from_the_results() -> None:
    found = {path.name: path.read_text() for path in crossover.FOLDER.glob("sm*.json")}
    made = writer.tables(attention_table.load(attention_table.RESULTS))
    assert found == {f"sm{arch}.json": writer.as_text(content) for arch, content in made.items()}


def test_a_file_holds_the_lower_end_of_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = dict.fromkeys(writer.MACHINE, "?") | {"capability": [9, 0]}
    row = {"direction": "forward", "head_dim": 64, "tokens": 197, "batch": 8, "heads": 12}
    record = {
        "dtype": "bf16",
        "machine": machine,
        "rows": [
            row | {"candidates": {"sdpa": {"ratio": 1.3, "ratio_low": 1.2468}}},
            row | {"direction": "both", "candidates": {"sdpa": {"ratio": 1.1, "ratio_low": 0.9}}},
            row | {"direction": "backward", "candidates": {"sdpa": {"ratio": 9.0, "ratio_low": 9.0}}},
            row | {"tokens": 577, "candidates": {"sdpa": {"reason": "too slow to time"}}},
        ],
    }
    slower = record | {"rows": [row | {"candidates": {"sdpa": {"ratio": 1.2, "ratio_low": 1.1}}}]}
    made = writer.tables([record, slower, record | {"dtype": "fp32"}])
    monkeypatch.setattr(crossover, "FOLDER", tmp_path)
    (tmp_path / "sm90.json").write_text(writer.as_text(made[90]))
    crossover.read.cache_clear()
    assert crossover.read() == {
        (9, 0): {("bfloat16", 64, False): {(197, 96): 1.1}, ("bfloat16", 64, True): {(197, 96): 0.9}}
    }
    crossover.read.cache_clear()
