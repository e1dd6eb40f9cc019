"""Which versions serve follows from the registry alone, so that every replica serves the same."""

from __future__ import annotations

from typing import Any

import pytest

from service.contract.listing import ModelListing, VersionFiles

FILES = VersionFiles(manifest_bytes=1, artifact_bytes=1)


def listing(*versions: int, **changes: Any) -> ModelListing:
    return ModelListing(versions=dict.fromkeys(versions, FILES), **changes)


def test_production_and_the_last_of_its_history_and_every_alias_are_servable() -> None:
    promoted = listing(1, 2, 3, 4, 5, 6, aliases={"production": 4, "canary": 6}, promoted=(1, 2, 3, 4))

    assert [promoted.servable(keep) for keep in range(4)] == [[4, 6], [3, 4, 6], [2, 3, 4, 6], [1, 2, 3, 4, 6]]


def test_without_promotions_the_newest_serves_and_its_history_is_what_came_before() -> None:
    assert listing(1, 3, 7).servable(1) == [3, 7]
    assert listing(1, 3, 7).defaults() == [7, 3, 1]
    assert listing(1, 3, 7, aliases={"production": 3}).servable(1) == [1, 3]


def test_what_was_rolled_back_or_is_gone_is_not_in_the_history() -> None:
    rolled_back = listing(1, 2, 3, aliases={"production": 2}, promoted=(1, 2, 3))
    gone = listing(1, 3, aliases={"production": 3}, promoted=(1, 2, 3))
    returned = listing(1, 2, aliases={"production": 1}, promoted=(1, 2, 1))

    assert (rolled_back.history(), rolled_back.servable(1)) == ([1, 2], [1, 2])
    assert (gone.history(), gone.servable(1)) == ([1, 3], [1, 3])
    assert (returned.history(), returned.defaults()) == ([1, 2, 1], [1, 2])


def test_a_damaged_production_alias_never_puts_a_version_into_production_that_nobody_promoted() -> None:
    damaged = listing(1, 2, 3, promoted=(1, 2), faults={"aliases/production": "it is garbage"})

    assert damaged.production() == 2
    assert 3 not in damaged.defaults()


def test_what_can_no_longer_be_read_is_as_it_was_last_known() -> None:
    before = listing(1, 2, aliases={"production": 1, "canary": 2, "old": 1}, promoted=(1,))
    unreadable = ModelListing(faults={"": "it must be readable"})
    damaged = listing(1, 3, aliases={"new": 3}, faults={"aliases/production": "garbage", "aliases/canary": "garbage"})

    assert unreadable.or_last_known(before) == before.model_copy(update={"faults": unreadable.faults})
    assert damaged.or_last_known(before).aliases == {"production": 1, "new": 3}  # version 2 is gone, and old unset
    assert (damaged.or_last_known(None), before.or_last_known(damaged)) == (damaged, before)


@pytest.mark.parametrize(
    ("files", "tags"),
    [
        (VersionFiles(manifest_bytes=1, manifest_tag="a", artifact_bytes=1, artifact_tag="b"), ("a", "b")),
        (VersionFiles(manifest_bytes=1, manifest_tag="a"), ("a", "")),
        (VersionFiles(manifest_bytes=1, manifest_tag="a", artifact_bytes=1), None),
        (VersionFiles(manifest_bytes=1, artifact_bytes=1, artifact_tag="b"), None),
    ],
    ids=["both", "no artifact yet", "artifact may change", "manifest may change"],
)
def test_files_have_tags_only_if_each_of_them_has(files: VersionFiles, tags: tuple[str, str] | None) -> None:
    assert files.tags == tags


def test_a_listing_survives_json() -> None:
    given = listing(1, 2, aliases={"production": 2}, promoted=(1, 2), faults={"aliases/x": "garbage"})

    assert ModelListing.model_validate_json(given.model_dump_json()) == given
