"""Start each contestant in turn on loopback, check and drive it, and print tables of medians, in Markdown.

    python -m benchmarks.serving                      all that are installed (`make bench-peers` installs the peers)
    python -m benchmarks.serving argmax ceiling       only these
    python -m benchmarks.serving --quick              one round of 2 s: for a look, not for publishing
    python -m benchmarks.serving --check              only whether each names the right class of 500 images

Needs wrk (Debian: apt-get install wrk) and MNIST in MNIST_ROOT. PEERS names another folder than .peers. Server and
client share the machine's cores, so only the ratios within one table mean anything. A measurement during which others
used more than a tenth of a core is repeated up to three times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import describe
from benchmarks.pictures import Pixels, mnist
from benchmarks.serving import several, tables
from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import Posts, closed_loop, open_loop
from benchmarks.serving.logits_only import write_logits_only
from benchmarks.serving.measuring import TRIES, Measured, measure
from benchmarks.serving.running import Running, running
from benchmarks.serving.tables import AT, Rounds
from service.contract.registry import ARTIFACT, Registry
from service.model import torchscript

CHECKED = 500  # images, each of which a contestant must classify as the artifact does
SENT = 256  # of them, in turn
PEAK_AT = 256  # connections; Argmax's peak is the higher of its rates with these and with AT
WARM_SECONDS = 2
FLOOR = "constant"  # looks at no image; shows what the generator adds


class Bench:
    """A run over contestants with one artifact."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rounds = Rounds()
        self.version = Registry(str(options.registry)).resolve(options.model)
        self._folder = tempfile.TemporaryDirectory(prefix="argmax-bench-")
        served = (options.registry / options.model / str(self.version) / ARTIFACT).resolve()
        folder = Path(self._folder.name, options.model, str(self.version))  # `running` takes the names from the path
        folder.mkdir(parents=True)
        self.artifact = write_logits_only(served, folder)
        self.pixels: Pixels = mnist(options.mnist, CHECKED)
        network = torchscript.load(self.artifact.read_bytes(), torch.device("cpu"))
        self.classes: list[int] = network.run(several.tensor(self.pixels))[0].argmax(1).tolist()
        self._peak = 0.0
        self._checked: set[str] = set()

    def play_round(self) -> None:
        """Measure every contestant once; leave out those that fail, in this round and later ones."""
        for port, name in enumerate(self.options.contestants, 18_300):
            if name in self.rounds.missing:
                continue
            try:
                self._play(name, port)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{CONTESTANTS[name].title} is left out: {error}", file=sys.stderr, flush=True)
                self.rounds.missing[name] = str(error).splitlines()[0]

    def _play(self, name: str, port: int) -> None:
        contestant = CONTESTANTS[name]
        first = contestant.requests[0].posts(self.pixels[:1])
        place = self.options.registry.resolve(), self.artifact
        with running(contestant, *place, first=first, port=port) as runs:
            if name not in self._checked and name != FLOOR:
                self._check(name, runs)
            if self.options.check:
                return
            for request in contestant.requests:
                url, posts = runs.url(request), request.posts(self.pixels[:SENT])
                closed_loop(url, posts, connections=AT, seconds=WARM_SECONDS)
                found = self.rounds.closed.setdefault((name, request.title), {})
                for connections in self.options.connections:
                    measured = self._measure(runs, url, posts, connections)
                    found.setdefault(connections, []).append(measured)
                    print(f"{name}, {request.title}, {connections}: {measured}", file=sys.stderr, flush=True)
            if name == "argmax":
                self._drive_argmax(runs)
            if self._peak:
                self._open_loops(name, runs)

    def _check(self, name: str, runs: Running) -> None:
        for request in CONTESTANTS[name].requests:
            if wrong := runs.wrong_answers(request, self.pixels, self.classes):
                raise RuntimeError(f"must name the right class of {CHECKED} images. Given: {wrong} wrong answers")
            print(f"{name}, {request.title}: {CHECKED} of {CHECKED} images right", file=sys.stderr, flush=True)
        self._checked.add(name)

    def _measure(self, runs: Running, url: str, posts: Posts, connections: int) -> Measured:
        options = self.options
        return measure(
            runs,
            url,
            posts,
            connections=connections,
            seconds=options.seconds,
            distinct=not options.same_heads,
            tries=1 if options.quick else TRIES,
        )

    def _drive_argmax(self, runs: Running) -> None:
        """Measure several images in a request, and the peak that open loops take a share of."""
        request = CONTESTANTS["argmax"].requests[0]
        url, posts = runs.url(request), request.posts(self.pixels[:SENT])
        self._peak = max(self._measure(runs, url, posts, connections).result.rate for connections in (AT, PEAK_AT))
        forms = several.drive(url, self.options.model, self.pixels[:SENT], self.options.seconds)
        for form, images_per_second in forms:
            self.rounds.several.setdefault(form, []).append(images_per_second)

    def _open_loops(self, name: str, runs: Running) -> None:
        """Send every contestant the same rates, but none that it did not reach in a closed loop."""
        request = CONTESTANTS[name].requests[0]
        url, posts = runs.url(request), request.posts(self.pixels[:SENT])
        reached = [m.result.rate for found in self.rounds.closed[name, request.title].values() for m in found]
        for share in self.options.open_loop:
            rate = share * self._peak
            if rate > max(reached):
                continue
            opened = open_loop(url, posts, rate=rate, seconds=self.options.seconds)
            self.rounds.opened.setdefault((share, name), []).append(opened)
            print(f"{name}, {share:.0%} of {self._peak:,.0f}: {opened}", file=sys.stderr, flush=True)

    def report(self) -> str:
        """Return the tables, and in words whatever they leave out."""
        options, rounds = self.options, self.rounds
        heads = "the same head in all requests" if options.same_heads else "a different head in each request"
        parts = [
            f"{describe()}; {options.model}@{self.version}, {options.repeats} rounds of {options.seconds:g} s, "
            f"medians, {heads}; {rounds.noise()}.",
            *tables.closed_table(rounds, options.connections),
        ]
        blocks = ["\n".join((parts[0], "", *parts[1:]))]
        blocks += [f"{CONTESTANTS[name].title} is left out: {reason}" for name, reason in rounds.missing.items()]
        if lost := tables.lost(rounds, options.connections):
            blocks.append("\n".join(("Where Argmax does not win:", "", *lost)))
        blocks += ["\n".join(table) for table in (tables.opened_table(rounds), tables.several_table(rounds)) if table]
        return "\n\n".join(blocks)


def main() -> int:
    """Run; return 1 if a contestant was left out."""
    installed = [name for name, contestant in CONTESTANTS.items() if contestant.is_installed]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestants", nargs="*", default=installed, metavar="|".join(CONTESTANTS))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, AT])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all contestants")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, repeated for no noise")
    parser.add_argument("--check", action="store_true", help="measure nothing")
    parser.add_argument("--same-heads", action="store_true", help="one X-Request-ID for all requests of closed loops")
    parser.add_argument("--registry", type=Path, default=Path("models"))
    parser.add_argument("--model", default="neural_net")
    parser.add_argument("--mnist", type=Path, default=Path(os.environ.get("MNIST_ROOT", "data")))
    parser.add_argument("--open-loop", type=float, nargs="*", default=[0.3, 0.5, 0.7], help="shares of Argmax's peak")
    options = parser.parse_args()
    if unknown := [name for name in options.contestants if name not in installed]:
        parser.error(f"contestants must be of {installed}. Given: {unknown}. `make bench-peers` installs the peers")
    if options.quick:
        options.repeats, options.seconds = 1, 2
    os.environ["SERVICE_DEFAULT_MODEL"] = options.model
    bench = Bench(options)
    # Round after round over all contestants, so that a noisy minute harms all of them alike.
    for _ in range(1 if options.check else options.repeats):
        bench.play_round()
    if not options.check:
        print(bench.report())
    return int(bool(bench.rounds.missing))


if __name__ == "__main__":
    sys.exit(main())
