"""How much faster `neural_net` trains than in the tutorial's own way: processes from start to end, in turn.

    python -m benchmarks.training --data-dir PATH [--epochs 10] [--repeats 3] [--one-thread]

A run is everything that a person waits for: starting Python, importing, reading MNIST, training and the test set.
Beside its seconds stands its CPU time, which bears company better.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe

ROOT = Path(__file__).parent.parent


@dataclass
class Contestant:
    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    accuracy: str = ""

    def run(self) -> None:
        """One run, in a process of its own."""
        started, before = time.perf_counter(), _cpu_seconds_of_children()
        done = subprocess.run([sys.executable, *self.command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(_cpu_seconds_of_children() - before)
        self.accuracy = re.findall(r"accuracy +([\d.]+%)", done.stdout)[-1]


def _cpu_seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def contestants(data_dir: Path, epochs: int, optimiser: str, runs_dir: str) -> list[Contestant]:
    """Ours and the tutorial's; held-out 0 and a constant learning rate make ours do exactly what the tutorial does."""
    same = ["--data-dir", str(data_dir.resolve()), "--epochs", str(epochs), "--optimiser", optimiser]
    ours = ["--held-out", "0", "--lr-schedule", "constant", "--device", "cpu", "--runs-dir", runs_dir]
    return [
        Contestant("argmax", ["-m", "training", "train", "neural_net", *same, *ours]),
        Contestant("tutorial", ["-m", "benchmarks.tutorial", *same]),
        Contestant("tutorial, 1 thread", ["-m", "benchmarks.tutorial", *same, "--threads", "1"]),
    ]


def table(entries: list[Contestant]) -> str:
    """Median, range and ratio to the first, as Markdown."""
    ours = statistics.median(entries[0].seconds)
    ours_cpu = statistics.median(entries[0].cpu_seconds)
    lines = [
        "| | seconds, median | least to most | times ours | CPU seconds | times ours | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        median, cpu = statistics.median(entry.seconds), statistics.median(entry.cpu_seconds)
        spread = f"{min(entry.seconds):.1f} to {max(entry.seconds):.1f}"
        lines.append(
            f"| {entry.name} | {median:.1f} | {spread} | {median / ours:.1f} | {cpu:.1f} | {cpu / ours_cpu:.1f} "
            f"| {entry.accuracy} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder with MNIST/raw.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--optimiser", choices=("sgd", "adam"), default="adam")
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="Leave out the tutorial with torch's choice of threads: where another process wants a core, they wait.",
    )
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as runs_dir:
        entries = contestants(arguments.data_dir, arguments.epochs, arguments.optimiser, runs_dir)
        if arguments.one_thread:
            entries = [entry for entry in entries if entry.name != "tutorial"]
        load = os.getloadavg()[0]
        for repeat in range(arguments.repeats):
            for entry in entries:
                entry.run()
                print(f"{repeat + 1}/{arguments.repeats} {entry.name}: {entry.seconds[-1]:.1f} s", file=sys.stderr)
    print(table(entries))
    print(
        f"\n{describe()}; {arguments.epochs} epochs, {arguments.optimiser}, n={arguments.repeats} in turn; "
        f"load average {load:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
