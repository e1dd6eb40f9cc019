"""Models are spread over groups, each worker serves its own group, and none moves."""

from __future__ import annotations

from pathlib import Path

from service.rollout.groups import Groups


def chosen(groups: Groups, *names: str) -> list[list[str]]:
    return [groups.choose(group, list(names)) for group in range(groups.number)]


def test_with_as_many_groups_as_models_each_model_is_alone(tmp_path: Path) -> None:
    assert chosen(Groups(tmp_path / "g", 3, 1), "a", "b", "c") == [["a"], ["b"], ["c"]]


def test_a_model_stays_in_its_group_when_others_come_and_go(tmp_path: Path) -> None:
    chosen(Groups(tmp_path / "g", 2, 1), "b", "c")

    later = Groups(tmp_path / "g", 2, 1)

    assert chosen(later, "a", "b", "c") == [["a", "b"], ["c"]]
    assert chosen(later, "b", "d") == [["b"], ["d"]]


def test_each_group_has_a_worker_on_every_device(tmp_path: Path) -> None:
    groups = Groups(tmp_path / "g", 2, 3)

    assert [groups.of_worker(worker) for worker in range(6)] == [0, 0, 0, 1, 1, 1]


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "g").write_text("a 1\nb")

    assert chosen(Groups(tmp_path / "g", 2, 1), "a")[1] == ["a"]
