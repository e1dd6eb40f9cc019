"""The pages are plain files, sent with headers that let them talk to this service only."""

from __future__ import annotations

from service.api import static
from tests.running import Service


def test_the_page_may_load_nothing_from_elsewhere_and_cannot_be_framed(service: Service) -> None:
    answer = service.client.get("/")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "camera=(self)" in answer.headers["permissions-policy"]


def test_every_file_of_the_page_is_served_and_names_no_other_host(service: Service) -> None:
    for file in static.FOLDER.iterdir():
        path = {"index.html": "/", "docs.html": "/docs"}.get(file.name, f"/page/{file.name}")
        answer = service.client.get(path)

        assert answer.content == file.read_bytes()
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")


def test_a_file_that_the_browser_has_is_not_sent_again(service: Service) -> None:
    etag = service.client.get("/page/app.js").headers["etag"]

    again = service.client.get("/page/app.js", headers={"if-none-match": f'"other", W/{etag}'})
    changed = service.client.get("/page/app.js", headers={"if-none-match": '"other"'})

    assert (again.status_code, again.content) == (304, b"")
    assert changed.status_code == 200
