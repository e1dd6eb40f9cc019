from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from training.publishing.provenance import commit


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A file that is committed to a repository."""
    file = tmp_path / "code.py"
    file.write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return file


def test_the_commit_is_the_head_of_the_repository_and_new_files_do_not_make_it_dirty(tracked: Path) -> None:
    (tracked.parent / "notes.txt").write_text("untracked")

    assert commit(tracked) == git(tracked.parent, "rev-parse", "HEAD")


def test_a_changed_file_makes_it_dirty(tracked: Path) -> None:
    tracked.write_text("2\n")

    assert commit(tracked) == git(tracked.parent, "rev-parse", "HEAD") + "-dirty"


def test_code_that_is_in_no_repository_or_only_lies_in_one_has_an_unknown_commit(tracked: Path) -> None:
    installed = tracked.parent / "installed.py"
    installed.write_text("1\n")

    assert commit(installed) == "unknown"
    assert commit(Path("/nowhere/code.py")) == "unknown"


def test_without_git_the_commit_is_unknown(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert commit(tracked) == "unknown"
