"""The comparison of two checkouts."""

from __future__ import annotations

from pathlib import Path

from benchmarks.acceptance import argmax_at, table


def test_the_table_compares_the_medians_of_both_checkouts() -> None:
    before = [{"ready after, s": seconds, "errors": 0.0} for seconds in (4.0, 9.0, 5.0)]
    now = [{"ready after, s": 6.0, "errors": 0.0}]

    assert table({"before": before, "this checkout": now}) == [
        "| | before | this checkout | ratio |",
        "|---|---:|---:|---:|",
        "| ready after, s | 5.00 | 6.00 | 1.20 |",
        "| errors | 0.00 | 0.00 |  |",
    ]


def test_one_checkout_is_compared_with_nothing() -> None:
    assert table({"this checkout": [{"requests/s": 12_345.6}]}) == [
        "| | this checkout |",
        "|---|---:|",
        "| requests/s | 12,346 |",
    ]


def test_a_checkout_runs_its_own_code_in_its_own_environment(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()

    contestant = argmax_at(tmp_path)

    assert contestant.command[:3] == [str(python), "-m", "service"]
    assert contestant.folder == tmp_path
