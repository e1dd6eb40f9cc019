"""The pages at / and /docs: plain files of service/page, whose headers let them do nothing but talk to this service.

/docs is our own too: Swagger UI comes from another host or as megabytes, and asks for styles that no strict content
security policy allows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from service.api.router import Route
from service.http.messages import Request, Response

FOLDER = Path(__file__).parent.parent / "page"

_PAGES = {"index.html": "/", "docs.html": "/docs"}

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",  # data: is what the network saw, blob: the picture that was dropped
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}

_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, but asked for each time: a new release must not meet an old script
}


def routes() -> list[Route]:
    """A route for each page and each of their files, which are read here, once."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in _MEDIA_TYPES)
    return [_route(_PAGES.get(path.name, f"/page/{path.name}"), path) for path in files]


def _route(path: str, file: Path) -> Route:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    media_type = _MEDIA_TYPES[file.suffix].encode()
    headers = tuple((name.encode(), value.encode()) for name, value in {**_HEADERS, "etag": etag}.items())

    def send(request: Request) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in (request.header("if-none-match") or "").split(",")]
        if etag in known or "*" in known:
            return Response(304, b"", media_type, headers)
        return Response(200, content, media_type, headers)

    return Route("GET", path, send)
