"""The OpenAPI document: openapi.json, with what the code decides filled in. Knows nothing about routes or servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.json import schema_components

from service import problems
from service.api.body import JSON, RAW_TYPES
from service.api.open_inference.schema import InferRequest, InferResponse
from service.api.request import PRIORITIES
from service.counting import counted
from service.settings import Settings

FILE = Path(__file__).with_suffix(".json")

Document = dict[str, Any]

_OF_CHANGES = "409"
"""The status that only requests which change something get."""

_BYTES = {"schema": {"type": "string", "format": "binary"}}


def document(version: str, settings: Settings) -> Document:
    """Return the document of a service of this version with these limits."""
    found: Document = json.loads(FILE.read_text())
    found["info"]["version"] = version
    _fill_predict(found, settings)
    _fill_inference(found["components"]["schemas"])
    _fill_refusals(found["paths"], found.pop("refusals"))
    return found


def _fill_predict(found: Document, settings: Settings) -> None:
    body = found["paths"]["/predict"]["post"]["requestBody"]
    body["description"] = f"At most {settings.max_body_bytes:,} bytes and {counted(settings.max_images, 'input')}."
    body["content"] = dict.fromkeys(sorted(RAW_TYPES), _BYTES) | body["content"]
    components = found["components"]
    components["parameters"]["priority"]["schema"]["enum"] = list(PRIORITIES)
    for name, key in (("Images", "images"), ("Features", "features")):
        components["schemas"][name]["properties"][key]["maxItems"] = settings.max_images


def _fill_inference(schemas: Document) -> None:
    _, found = schema_components([InferRequest, InferResponse], ref_template="#/components/schemas/{name}")
    schemas |= found


def _fill_refusals(paths: Document, meanings: dict[str, str]) -> None:
    """Write out each operation's `refusals`, a list of statuses or "all" those of inference, as responses."""
    for path, item in paths.items():
        for operation in item.values():
            if not isinstance(operation, dict):  # the parameters that a path's operations share
                continue
            statuses = operation.pop("refusals", ())
            if statuses == "all":
                statuses = [status for status in meanings if status != _OF_CHANGES]
            elif "401" in statuses:  # whatever asks for a key may find its quota used up
                statuses = sorted({*statuses, "429"})
            for status in statuses:
                operation["responses"][status] = {"description": meanings[status], "content": _refusal(path)}


def _refusal(path: str) -> Document:
    """Return what a refused request to `path` is answered with."""
    if path.startswith("/v2"):
        return {JSON: {"schema": {"$ref": "#/components/schemas/ProtocolError"}}}
    return {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
