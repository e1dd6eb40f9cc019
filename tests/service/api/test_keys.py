from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.api.keys import Keys, KeysError, make, read


def test_a_key_that_was_made_is_found_with_its_name_and_scopes(tmp_path: Path) -> None:
    key, line = make("ci", frozenset({"predict"}))
    other, other_line = make("boss", frozenset({"predict", "admin"}))
    (tmp_path / "keys").write_text(f"# who may\n\n{line}  # the pipeline\n{other_line}\n")

    keys = Keys(tmp_path / "keys")

    assert (keys.find(key).name, keys.find(key).scopes) == ("ci", {"predict"})  # type: ignore[union-attr]
    assert keys.find(other).scopes == {"predict", "admin"}  # type: ignore[union-attr]
    assert keys.find(key + "x") is None
    assert keys.find("") is None


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


@pytest.mark.parametrize(
    "line", ["ci predict", "ci predict tooshort", f"ci everything {'0' * 64}", f"ci predict {'g' * 64}", "a b c d"]
)
def test_a_line_of_another_form_is_refused_without_repeating_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"# first\n{line}\n")

    with pytest.raises(KeysError, match=r"line 2 of .* must be: name, scopes of admin,predict, sha256") as caught:
        read(tmp_path / "keys")

    assert line not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"must be readable\. Given: "):
        Keys(tmp_path / "keys")
