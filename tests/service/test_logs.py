"""A log record as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys, warnings
from service.logs import configure_logging
configure_logging("info", sys.argv[1])
logger = logging.getLogger("a.b")
logger.debug("not said")
logger.info("loaded %s in %d\\nlines", "x", 2)
try:
    raise ValueError("odd")
except ValueError:
    logger.exception("met")
warnings.warn("old")
"""


def said(log_format: str) -> str:
    return subprocess.run([sys.executable, "-c", PROGRAM, log_format], capture_output=True, text=True).stderr


def test_json_is_one_object_a_line_whatever_is_said() -> None:
    first, second, third = map(json.loads, said("json").splitlines())

    assert first.keys() == {"time", "level", "process", "logger", "message"}
    assert first["time"].endswith("Z")
    del first["time"]
    assert first == {"level": "info", "process": "MainProcess", "logger": "a.b", "message": "loaded x in 2\nlines"}
    assert (second["level"], second["message"]) == ("error", "met")
    assert "ValueError: odd" in second["exception"]
    assert "UserWarning: old" in third["message"]


def test_text_is_for_people() -> None:
    text = said("text")

    assert " INFO MainProcess a.b: loaded x in 2" in text
    assert "ValueError: odd" in text
    assert "not said" not in text
