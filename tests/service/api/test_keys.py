from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from service.api.keys import MAX_FILE_BYTES, Keys, KeysError, add, make, read, remove

LONG_AGO = -1000.0


def settle(keys: Keys) -> None:
    """Let the file have stayed as it is for long."""
    keys._changed_at = LONG_AGO
    keys.refresh()


def test_a_key_that_was_made_is_found_with_its_name_and_scopes(tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}))
    other, other_line = make("boss", frozenset({"predict", "admin"}))
    (tmp_path / "keys").write_text(f"# who may\n\n{line}  # the pipeline\n{other_line}\n")

    keys = Keys(tmp_path / "keys")

    assert (keys.find(key).name, keys.find(key).scopes) == ("ci", {"predict"})  # type: ignore[union-attr]
    assert keys.find(other).scopes == {"predict", "admin"}  # type: ignore[union-attr]
    assert keys.find(key + "x") is None
    assert keys.find("") is None


def test_a_line_may_say_how_much_a_second_a_key_may_ask_for(tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}), requests=0.5, images=100)
    other, other_line = make("batch", frozenset({"predict"}), images=20)
    (tmp_path / "keys").write_text(f"{line}\n{other_line}\n")

    keys = Keys(tmp_path / "keys")

    assert [found.quota for found in (keys.find(key), keys.find(other)) if found] == [
        "requests=0.5 images=100",
        "images=20",
    ]


def test_the_file_holds_no_key_but_its_hash() -> None:
    key, line = make("ci", frozenset({"predict"}))

    assert key not in line
    assert hashlib.sha256(key.encode()).hexdigest() in line


def test_a_changed_file_is_read_again_also_when_it_is_replaced_through_a_link(tmp_path: Path) -> None:
    (old, old_line), (new, new_line) = make("old", frozenset({"predict"})), make("new", frozenset({"predict"}))
    (tmp_path / "1").write_text(old_line)
    (tmp_path / "2").write_text(new_line)
    (tmp_path / "keys").symlink_to("1")
    keys = Keys(tmp_path / "keys")

    (tmp_path / "link").symlink_to("2")
    (tmp_path / "link").replace(tmp_path / "keys")
    keys.refresh()
    settle(keys)

    assert keys.find(old) is None
    assert keys.find(new)


def test_a_file_that_breaks_or_goes_changes_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, line = make("ci", frozenset({"predict"}))
    path = tmp_path / "keys"
    path.write_text(line)
    keys = Keys(path)

    path.write_text("what is this")
    keys.refresh()
    path.unlink()
    keys.refresh()

    assert keys.find(key)
    assert caplog.text.count("the keys stay as they were") == 2


def test_a_new_key_counts_at_once_and_one_that_is_gone_until_the_file_has_settled(tmp_path: Path) -> None:
    (old, old_line), (new, new_line) = make("old", frozenset({"predict"})), make("new", frozenset({"predict"}))
    (tmp_path / "keys").write_text(old_line)
    keys = Keys(tmp_path / "keys")
    news_before = keys.has_news()

    (tmp_path / "keys").write_text(f"# by a tool\n{new_line}")
    news = keys.has_news()
    keys.refresh()
    keys.refresh()

    assert (news_before, news) == (False, True)
    assert keys.find(new)
    assert keys.find(old)
    settle(keys)
    assert keys.find(new)
    assert keys.find(old) is None
    assert not keys.has_news()


@pytest.mark.parametrize(
    "half", ["", "# who may\n", "ci predict 5f70bf18a0"], ids=["empty", "a comment", "half a line"]
)
def test_a_file_that_is_being_written_rejects_no_key_however_long_that_takes(half: str, tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}))
    (tmp_path / "keys").write_text(line)
    keys = Keys(tmp_path / "keys")

    (tmp_path / "keys").write_text(half)
    keys.refresh()
    settle(keys)

    assert keys.find(key)


def test_removing_the_last_key_refuses_it_for_the_file_says_that_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add(path, "ci", frozenset({"predict"}))
    keys = Keys(path)

    remove(path, "ci")
    keys.refresh()
    settle(keys)

    assert keys.find(key) is None
    assert path.read_text() == "none\n"
    assert add(path, "ci", frozenset({"predict"}))


def test_a_fifo_or_a_folder_or_a_file_without_end_blocks_nothing_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, line = make("ci", frozenset({"predict"}))
    path = tmp_path / "keys"
    path.write_text(line)
    keys = Keys(path)

    path.unlink()
    os.mkfifo(path)
    keys.refresh()
    path.unlink()
    path.mkdir()
    keys.refresh()
    path.rmdir()
    path.write_text(f"{line}\n" + "#" * MAX_FILE_BYTES)
    keys.refresh()

    assert keys.find(key)
    assert caplog.text.count("must be a regular file") == 2
    assert "must be at most 4,194,304 bytes" in caplog.text


def test_the_cost_of_a_look_up_does_not_grow_with_the_keys(tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}))
    others = (f"other-{number} predict {number:064x}" for number in range(20_000))
    (tmp_path / "keys").write_text("\n".join([*others, line]))
    keys = Keys(tmp_path / "keys")
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = keys.find(key)
    finally:
        sys.setprofile(None)

    assert found
    assert calls < 10


@pytest.mark.parametrize(
    "line",
    [
        "ci predict",
        "ci predict tooshort",
        f"ci everything {'0' * 64}",
        f"ci predict {'g' * 64}",
        "a b c d",
        f"ci predict {'0' * 64} requests=0",
        f"ci predict {'0' * 64} requests=1e9",
        f"ci predict {'0' * 64} images=1 images=2",
        f"ci predict {'0' * 64} hours=1",
    ],
)
def test_a_line_of_another_form_is_refused_without_repeating_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"# first\n{line}\n")

    with pytest.raises(
        KeysError, match=r"line 2 of .* must be: name, scopes of admin,feedback,predict, sha256"
    ) as caught:
        read(tmp_path / "keys")

    assert line not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"must be readable\. Given: "):
        Keys(tmp_path / "keys")
