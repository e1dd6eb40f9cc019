from __future__ import annotations

import pytest

from tests.lessons.page import Block, agrees, blocks_of, run

PAGE = """# A page

```python
x = 20
print(x + 1)
```

```text
21
```

Prose, and code that prints nothing:

```python
y = x
```

Prose between keeps a block from being its output:

```text
not compared
```

```console
$ echo one \\
    two
one two
$ true
```
"""


def test_a_page_is_its_python_and_its_commands_each_with_what_it_must_print() -> None:
    assert blocks_of(PAGE) == [
        Block("python", 4, "x = 20\nprint(x + 1)\n", "21\n"),
        Block("python", 15, "y = x\n", ""),
        Block("console", 25, "echo one     two", "one two\n"),
        Block("console", 28, "true", ""),
    ]


def test_blocks_run_in_order_and_share_their_names() -> None:
    namespace: dict[str, object] = {}

    printed = [run(block, namespace, title="page") for block in blocks_of(PAGE)]

    assert printed == ["21\n", "", "one two\n", ""]
    assert namespace["y"] == 20


def test_an_error_is_in_the_line_of_the_page() -> None:
    block = Block("python", 7, "x = 1\nx / 0\n", "")

    with pytest.raises(ZeroDivisionError) as raised:
        run(block, {}, title="page.md")

    assert (str(raised.traceback[-1].path), raised.traceback[-1].lineno) == ("page.md", 7)  # from 0


def test_commands_of_the_project_run_through_their_command_line() -> None:
    assert "simple_nn" in run(Block("console", 1, "python -m training list", ""), {}, title="page")


@pytest.mark.parametrize("command", ["false", "python -m training train nothing"])
def test_a_command_that_fails_fails_the_page(command: str) -> None:
    with pytest.raises(RuntimeError, match="must exit with 0"):
        run(Block("console", 1, command, ""), {}, title="page")


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("loss 0.42\n", "loss 0.42\n", True),
        ("loss 0.42\n", "loss 0.43\n", False),
        ("loss 0.4... in ... s\n", "loss 0.4213 in 3.1 s\n", True),
        ("loss 0.4...\n", "loss 0.5\n", False),
        ("one\n...\nfour\n", "one\ntwo\nthree\nfour\n", True),
        ("", "something\n", False),
        ("something\n", "", False),
    ],
)
def test_dots_stand_for_anything_and_everything_else_for_itself(expected: str, printed: str, same: bool) -> None:
    assert agrees(expected, printed) == same


def test_a_console_without_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with a command"):
        blocks_of("```console\noutput\n```\n")
