"""Log lines: text for people, or one JSON object a line for machines."""

from __future__ import annotations

import datetime
import logging
from typing import Any, Literal

import orjson

Format = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"


def configure_logging(level: str, format: Format) -> None:  # noqa: A002 - what everybody calls it
    """Send every line of this process, and of those forked from it, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(format == "json")  # else they would be lines of their own making
    logging.getLogger("fsspec").setLevel("WARNING")
    logging.getLogger("python_multipart").setLevel("ERROR")  # warns of every malformed form; the client is told


class JSONFormatter(logging.Formatter):
    """A record as one JSON object: time, level, process, logger, message and, if there is one, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = head(record.created, record.levelname, record.processName or "", record.name)
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def head(seconds: float, level: str, process: str, logger: str) -> dict[str, Any]:
    """Return the fields that every JSON line begins with; `seconds` are of Unix time."""
    return {"time": utc(seconds), "level": level.lower(), "process": process, "logger": logger}


def utc(seconds: float) -> str:
    """Return a moment of Unix time as RFC 3339 says it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
