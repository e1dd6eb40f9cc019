"""The tables of the serving benchmark."""

from __future__ import annotations

from benchmarks.serving.load import Opened, Result
from benchmarks.serving.measuring import Measured
from benchmarks.serving.tables import Rounds, closed_table, lost, opened_table


def measured(
    rate: float, *, p50: float = 0.004, p99: float = 0.008, micros: float = 100, others: float = 0
) -> Measured:
    return Measured(Result(rate, p50, p99, 0), micros / 1e6, others)


def rounds() -> Rounds:
    """Argmax beats mosec with PNGs and loses to Triton with tensors."""
    found = Rounds()
    found.closed = {
        ("argmax", "PNG"): {64: [measured(19_000), measured(20_000), measured(30_000)]},
        ("argmax", "v2 tensor"): {64: [measured(15_000)]},
        ("mosec", "PNG"): {64: [measured(10_000, p50=0.005, p99=0.009, micros=101)]},
        ("triton", "v2 tensor"): {64: [measured(16_000, p99=0.007, micros=90, others=0.4)]},
    }
    return found


def test_the_table_shows_medians_and_compares_the_same_kind_of_request() -> None:
    assert closed_table(rounds(), [64]) == [
        "| requests/s (p50, p99 in ms) | request | 64 connections | Argmax is, at 64 | CPU µs, at 64 |",
        "|---|---|---:|---:|---:|",
        "| **Argmax** | PNG | 20,000 (4.00, 8.00) | 1.00 times | 100 |",
        "| **Argmax** | v2 tensor | 15,000 (4.00, 8.00) | 1.00 times | 100 |",
        "| mosec, 2 Python workers | PNG | 10,000 (5.00, 9.00) | 2.00 times | 101 |",
        "| Triton, LibTorch backend | v2 tensor | 16,000 (4.00, 7.00) | 0.94 times | 90 |",
    ]


def test_every_figure_that_argmax_loses_is_listed_and_no_other() -> None:
    assert lost(rounds(), [64]) == [
        "- Triton, LibTorch backend, v2 tensor, 64 connections: 16,000 requests/s, Argmax 15,000",
        "- Triton, LibTorch backend, v2 tensor, 64 connections: p99 7.00 ms, Argmax 8.00",
        "- Triton, LibTorch backend, v2 tensor, 64 connections: 90 µs of CPU, Argmax 100",
    ]


def test_a_contestant_that_failed_in_a_later_round_has_no_row() -> None:
    found = rounds()
    found.missing["triton"] = "died"

    assert not any("Triton" in line for line in closed_table(found, [64]))
    assert lost(found, [64]) == []


def test_the_noise_of_others_is_told() -> None:
    assert rounds().noise() == "others used more than 0.1 core in 1 of 6 measurements, at most 0.40"


def test_the_open_loop_says_how_late_its_generator_was() -> None:
    found = Rounds()
    found.opened[0.7, "argmax"] = [Opened(Result(14_000, 0.002, 0.009, 0), 0.001)]

    assert opened_table(found)[2] == "| Argmax | 70% | 14,000 | 2.00 | 9.00 | 1 | 0 |"
