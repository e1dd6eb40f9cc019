"""What was measured of the contestants, and its tables in Markdown. Knows nothing of how it was measured."""

from __future__ import annotations

import statistics

from benchmarks.serving import several
from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import Opened, Result
from benchmarks.serving.measuring import QUIET_CORES, Measured, median, median_result

AT = 64  # connections, where contestants are compared

Row = tuple[str, str]
"""A contestant's name and the title of its request."""


class Rounds:
    """The measurements of all rounds."""

    def __init__(self) -> None:
        self.closed: dict[Row, dict[int, list[Measured]]] = {}  # by connections
        self.opened: dict[tuple[float, str], list[Opened]] = {}  # by share of Argmax's peak, and contestant
        self.several: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}  # contestants that failed, and why

    def rows(self) -> list[Row]:
        return [row for row in self.closed if row[0] not in self.missing]

    def of(self, row: Row, connections: int) -> Measured:
        """Return a row's medians."""
        return median(self.closed[row][connections])

    def argmax(self, request: str) -> Row | None:
        """Return Argmax's own row for the same kind of request: one is of tensors, and all others are of PNGs."""
        row = ("argmax", "v2 tensor" if request == "v2 tensor" else "PNG")
        return row if row in self.rows() else None

    def noise(self) -> str:
        """Return how busy others were, in words."""
        others = [m.others for measured in self.closed.values() for found in measured.values() for m in found]
        loud = sum(cores > QUIET_CORES for cores in others)
        worst = f"at most {max(others):.2f}" if others else "none measured"
        return f"others used more than {QUIET_CORES} core in {loud} of {len(others)} measurements, {worst}"


def closed_table(rounds: Rounds, connections: list[int]) -> list[str]:
    """Return the table of all rows; below 1.00, Argmax is slower."""
    columns = [f"{count} connection{'s' if count > 1 else ''}" for count in connections]
    if AT in connections:
        columns += [f"Argmax is, at {AT}", f"CPU µs, at {AT}"]
    lines = [f"| requests/s (p50, p99 in ms) | request | {' | '.join(columns)} |", "|---|---|" + "---:|" * len(columns)]
    for row in rounds.rows():
        name, request = row
        cells = [_cell(rounds.of(row, count).result) for count in connections]
        if AT in connections:
            cells += [_ratio(rounds, row), f"{rounds.of(row, AT).cpu * 1e6:,.0f}"]
        title = CONTESTANTS[name].title
        lines.append(f"| {f'**{title}**' if name == 'argmax' else title} | {request} | {' | '.join(cells)} |")
    return lines


def lost(rounds: Rounds, connections: list[int]) -> list[str]:
    """Return a line for each row that answers faster or sooner than Argmax does, with the same kind of request."""
    lines = []
    for row in rounds.rows():
        own = rounds.argmax(row[1])
        if not own or own == row:
            continue
        for count in connections:
            mine, theirs = rounds.of(own, count).result, rounds.of(row, count).result
            where = f"{CONTESTANTS[row[0]].title}, {row[1]}, {count} connection{'s' if count > 1 else ''}"
            if theirs.rate > mine.rate:
                lines.append(f"- {where}: {theirs.rate:,.0f} requests/s, Argmax {mine.rate:,.0f}")
            for name in ("p50", "p99"):
                sooner, later = getattr(theirs, name), getattr(mine, name)
                if sooner < later:
                    lines.append(f"- {where}: {name} {sooner * 1e3:.2f} ms, Argmax {later * 1e3:.2f}")
        if AT in connections and (cpu := rounds.of(row, AT).cpu) < (more := rounds.of(own, AT).cpu):
            lines.append(
                f"- {CONTESTANTS[row[0]].title}, {row[1]}, {AT} connections: {cpu * 1e6:,.0f} µs of CPU, "
                f"Argmax {more * 1e6:,.0f}"
            )
    return lines


def opened_table(rounds: Rounds) -> list[str]:
    """Return the table of the open loops; "sent late" is the generator's own delay, which latency leaves out."""
    heads = ["open loop", "of Argmax's peak", "requests/s", "p50 ms", "p99 ms", "sent late, p99 ms", "errors"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * 6]
    for (share, name), loops in sorted(rounds.opened.items()):
        rate, p50, p99, errors = median_result([loop.result for loop in loops])
        late = statistics.median(loop.late_p99 for loop in loops)
        figures = f"{rate:,.0f} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} | {late * 1e3:.0f} | {errors}"
        lines.append(f"| {CONTESTANTS[name].title} | {share:.0%} | {figures} |")
    return lines if rounds.opened else []


def several_table(rounds: Rounds) -> list[str]:
    if not rounds.several:
        return []
    one = statistics.median(rounds.several[several.ONE])
    lines = ["| images in a request to Argmax | images/s | times |", "|---|---:|---:|"]
    for form, measured in rounds.several.items():
        rate = statistics.median(measured)
        lines.append(f"| {form} | {rate:,.0f} | {rate / one:.2f} |")
    return lines


def _ratio(rounds: Rounds, row: Row) -> str:
    own, theirs = rounds.argmax(row[1]), rounds.of(row, AT).result.rate
    return f"{rounds.of(own, AT).result.rate / theirs:.2f} times" if own and theirs else ""


def _cell(result: Result) -> str:
    errors = f", {result.errors} errors" if result.errors else ""
    return f"{result.rate:,.0f} ({result.p50 * 1e3:.2f}, {result.p99 * 1e3:.2f}{errors})"
