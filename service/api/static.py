"""The files of service/page as routes, with headers that let the pages talk to this service only.

/docs is our own, too: Swagger UI loads from another host or weighs megabytes, and its styles need a looser content
security policy.
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
    "img-src": "'self' data: blob:",  # data: what the network saw; blob: a dropped picture, a plot
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
    "cache-control": "no-cache",  # revalidated each time, so that a new release never meets an old script
}


def routes() -> list[Route]:
    """Return a route for each page and each of its files, which are read here, once."""
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
