"""The groups that a service's models are divided into, where not every worker serves every model.

A model stays in the group that it was given first: the file that says so is shared by the workers and outlives them.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from pathlib import Path


class Groups:
    """So many groups of models, each served by as many `workers` as there are devices; the file is at `path`."""

    def __init__(self, path: Path, number: int, devices: int) -> None:
        self._path = path
        self.number = number
        self._devices = devices

    def of_worker(self, worker: int) -> int:
        """Return the group that a worker serves: the first workers have the devices' first group, and so on."""
        return worker // self._devices

    def choose(self, group: int, names: list[str]) -> list[str]:
        """Return those of the models that are in `group`; new ones join the smallest group."""
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            places = {name: int(place) for name, place in filter(_is_whole, map(str.split, file))}
            sizes = Counter(dict.fromkeys(range(self.number), 0))
            sizes.update(place for name, place in places.items() if name in names)
            for name in names:
                if name not in places:
                    places[name] = min(sizes, key=lambda place: (sizes[place], place))
                    sizes[places[name]] += 1
                    file.write(f"{name} {places[name]}\n")
        return [name for name in names if places[name] == group]


def _is_whole(line: list[str]) -> bool:
    return len(line) == 2 and line[1].isdecimal()
