"""What an administrator unloads stays unloaded for all processes, and whoever waits hears of it at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.rollout.unloaded import Unloaded


def test_what_one_process_unloads_is_unloaded_for_all_until_it_is_loaded(tmp_path: Path) -> None:
    here, there = Unloaded(tmp_path), Unloaded(tmp_path)

    here.unload("rows")
    here.unload("photos")
    between = there.names()
    there.load("rows")
    there.load("nobody unloaded this")

    assert between == {"rows", "photos"}
    assert here.names() == {"photos"}


def test_a_model_that_must_not_be_unloaded_is_not(tmp_path: Path) -> None:
    unloaded = Unloaded(tmp_path)

    def refuse(names: frozenset[str]) -> None:
        raise ValueError(sorted(names))

    with pytest.raises(ValueError, match="rows"):
        unloaded.unload("rows", may=refuse)

    assert unloaded.names() == frozenset()


@pytest.mark.parametrize("act", [lambda u: u.load("rows"), lambda u: u.unload("rows"), Unloaded.nudge])
def test_a_wait_ends_with_the_next_change_or_with_one_since_the_last(tmp_path: Path, act: object) -> None:
    waiting, other = Unloaded(tmp_path), Unloaded(tmp_path)
    thread = threading.Thread(target=waiting.wait, args=(3600,), daemon=True)
    thread.start()

    act(other)  # type: ignore[operator]
    thread.join(30)
    act(other)  # type: ignore[operator]
    waiting.wait(3600)

    assert not thread.is_alive()
    waiting.wait(0.01)  # nothing has changed since
