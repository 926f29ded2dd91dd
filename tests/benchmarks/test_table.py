"""The table in kernels/README.md: made from the JSON, and never by hand."""

import json

import pytest

from benchmarks import attention_table


def record(date, *, device="NVIDIA H200", **changes):
    machine = {"device": device, "date": date, "commit": "abc", "driver": "580", "cuda": "13.0", "torch": "2.11.0"}
    candidates = {
        "vitzoo": {"median_us": 50.0, "low_us": 49.5, "high_us": 50.5, "roofline": 0.76, "ratio": 1.0},
        "sdpa": {"median_us": 60.0, "ratio": 1.2},
        "flex": {"reason": "compiled elsewhere"},
    }
    row = {"direction": "forward", "heads": 12, "bound": "memory", "cold": True, "candidates": candidates}
    return {
        "suite": "vit",
        "dtype": "bf16",
        "quick": False,
        "without": [],
        "machine": machine | {"triton": "3.6.0", "cudnn": 91900},
        "peaks": {
            "measured": {"bytes_per_s": 4.3e12, "flops_per_s": 790e12},
            "datasheet": {"bytes_per_s": 4.8e12, "flops_per_s": 989e12},
        },
        "clocks": {"clocks.sm": [1700.0, 1755.0, 1980.0]},
        "rows": [
            row | {"head_dim": 72, "tokens": 729, "batch": 8},
            row | {"head_dim": 72, "tokens": 729, "batch": 128},
            row | {"head_dim": 64, "tokens": 197, "batch": 128, "direction": "backward"},
            row | {"head_dim": 64, "tokens": 197, "batch": 128},
            row | {"head_dim": 64, "tokens": 197, "batch": 1},
        ],
        "wrong": [],
        "not_run": ["B1 N50 H8 D128"],
    } | changes


def test_the_readme_holds_what_the_results_give():
    text = attention_table.README.read_text()
    assert text == attention_table.with_table(
        text, attention_table.table(attention_table.load(attention_table.RESULTS))
    )


def test_without_results_the_page_says_that_nothing_was_measured(tmp_path):
    assert attention_table.table(attention_table.load(tmp_path)).startswith("Nothing: no GPU was available.")


def test_a_table_names_the_machine_and_shows_the_largest_batches():
    lines = attention_table.table([record("2026-12-01T00:00:00")]).splitlines()
    heading = " ".join(lines[: lines.index("")])
    assert heading.startswith("**NVIDIA H200, bf16**, 2026-12-01, commit abc, driver 580, CUDA 13.0, torch 2.11.0,")
    assert "same run: 4.30 TB/s, 790 TFLOP/s (data sheet: 4.80 TB/s, 989 TFLOP/s)." in heading
    assert "1700 to 1980 MHz" in heading
    assert "Inputs are cold." in heading
    assert "1 shapes of the suite were not reached." in heading
    assert lines[lines.index("") + 1 :] == [
        "| | B | N | H | D | vitzoo us (20-80 %) | of roofline | sdpa |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        "| forward | 1 | 197 | 12 | 64 | 50.0 (49.5-50.5) | 76% memory | 1.20x |",
        "| forward | 128 | 197 | 12 | 64 | 50.0 (49.5-50.5) | 76% memory | 1.20x |",
        "| forward | 128 | 729 | 12 | 72 | 50.0 (49.5-50.5) | 76% memory | 1.20x |",
        "| backward | 128 | 197 | 12 | 64 | 50.0 (49.5-50.5) | 76% memory | 1.20x |",
    ]


def test_the_newest_record_of_each_gpu_counts(tmp_path):
    for i, (date, device) in enumerate([("2026-12-02", "B"), ("2026-12-03", "A"), ("2026-12-01", "B")]):
        (tmp_path / f"attention-{i}.json").write_text(json.dumps(record(date, device=device)))
    (tmp_path / "attention-launch.json").write_text(json.dumps({"suite": "launch"}))
    loaded = attention_table.load(tmp_path)
    assert [(r["machine"]["device"], r["machine"]["date"]) for r in loaded] == [
        ("A", "2026-12-03"),
        ("B", "2026-12-02"),
    ]


def test_a_record_without_some_kernel_is_not_what_ships(tmp_path):
    (tmp_path / "attention-x.json").write_text(json.dumps(record("2026-12-01", without=["forward_whole"])))
    assert attention_table.load(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quick": True}, "is of a quick run, which measures nothing"),
        ({"wrong": ["dq: over"]}, "that was wrong: dq: over"),
    ],
)
def test_a_record_that_measures_nothing_is_refused(tmp_path, changes, words):
    (tmp_path / "attention-x.json").write_text(json.dumps(record("2026-12-01", **changes)))
    with pytest.raises(ValueError, match=words):
        attention_table.load(tmp_path)


@pytest.mark.parametrize("page", ["{1}", "{0} {0} {1}", "{0}"])
def test_a_page_without_one_of_each_marker_is_refused(page):
    with pytest.raises(ValueError, match="the page needs one <!-- attention table: begin -->"):
        attention_table.with_table(page.format(attention_table.BEGIN, attention_table.END), "table")
