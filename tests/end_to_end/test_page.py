"""The page at /, as a person meets it: real Chromium, real strokes, a real service."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.contract.manifest import FeatureInput
from tests import pictures
from tests.conftest import ROOT
from tests.registries import RGB, FirstFeature, publish
from tests.running import Service, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

MODELS = ROOT / "models"
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
DIGIT_MODELS = sorted(
    path.name
    for path in MODELS.iterdir()
    if any(json.loads(file.read_text())["input"].get("style") == "mnist" for file in path.glob("*/manifest.json"))
)

BROWSER_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)

Stroke = tuple[tuple[float, float], ...]
"""Points in shares of the pad, from its upper left corner."""

STROKES: dict[str, tuple[Stroke, ...]] = {
    "0": (
        (
            *((0.50, 0.16), (0.39, 0.21), (0.33, 0.34), (0.32, 0.52), (0.35, 0.70), (0.44, 0.82)),
            *((0.54, 0.83), (0.64, 0.74), (0.69, 0.58), (0.68, 0.38), (0.62, 0.22), (0.50, 0.16)),
        ),
    ),
    "1": (((0.52, 0.16), (0.50, 0.50), (0.48, 0.84)),),
    "3": (
        (
            *((0.32, 0.24), (0.42, 0.16), (0.56, 0.16), (0.65, 0.25), (0.64, 0.36), (0.55, 0.45), (0.45, 0.48)),
            *((0.57, 0.51), (0.67, 0.60), (0.67, 0.72), (0.57, 0.82), (0.43, 0.83), (0.31, 0.76)),
        ),
    ),
    "4": (((0.42, 0.16), (0.32, 0.52), (0.70, 0.52)), ((0.62, 0.18), (0.60, 0.52), (0.58, 0.86))),
    "7": (((0.30, 0.20), (0.50, 0.19), (0.70, 0.20), (0.60, 0.45), (0.50, 0.65), (0.44, 0.84)),),
}

IN_THE_PAGE = """
window.refusals = [];
document.addEventListener("securitypolicyviolation", (event) => refusals.push(event.violatedDirective));
window.give = (kind, name, type, content) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  if (kind === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
  else for (const event of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
};
"""


class Visit:
    """One open page, and what it did behind its reader's back."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._under_way: set[Request] = set()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._begin)
        page.on("requestfinished", self._end)
        page.on("requestfailed", self._end)

    def _hear(self, message: Any) -> None:
        # Chromium itself says "Failed to load resource" of every refusal, which the page then shows.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _begin(self, request: Request) -> None:
        self.requests.append(request)
        if "/predict" in request.url:
            self._under_way.add(request)
            self.most_at_once = max(self.most_at_once, len(self._under_way))

    def _end(self, request: Request) -> None:
        self._under_way.discard(request)

    def open(self, query: str = "") -> Visit:
        self.page.goto(f"{self.url}/{query}")
        return self

    def wait_until_ready(self) -> Visit:
        self.page.wait_for_selector("#state[data-state=ready]")
        self.page.wait_for_selector("#model:enabled")
        return self

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point of the pad, in pixels of the page."""
        box = self.page.locator("#pad").bounding_box()
        assert box
        return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]

    def draw(self, digit: str, *, left: float = 0.0, scale: float = 1.0) -> None:
        for stroke in STROKES[digit]:
            first, *others = (self.at((left + scale * x, scale * y)) for x, y in stroke)
            self.page.mouse.move(*first)
            self.page.mouse.down()
            for point in others:
                self.page.mouse.move(*point, steps=2)
            self.page.mouse.up()

    def touch(self, digit: str) -> None:
        session = self.page.context.new_cdp_session(self.page)

        def send(kind: str, *points: tuple[float, float]) -> None:
            touches = [{"x": x, "y": y} for x, y in map(self.at, points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

        for stroke in STROKES[digit]:
            send("touchStart", stroke[0])
            for point in stroke[1:]:
                send("touchMove", point)
            send("touchEnd")

    def give(self, how: str, name: str, media_type: str, content: bytes) -> None:
        self.page.evaluate("given => give(...given)", [how, name, media_type, base64.b64encode(content).decode()])

    def wait_for(self, selector: str, text: str) -> None:
        """Until the element says exactly `text`."""
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.innerText.trim() === text", arg=[selector, text]
        )

    def wait_for_answer(self, label: str) -> None:
        self.wait_for("#best-label", label)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector).strip()

    def assert_well_behaved(self) -> None:
        """No complaint, no breach of the policy, nothing from elsewhere, never two questions at once."""
        assert self.complaints == []
        assert self.page.evaluate("refusals") == []
        elsewhere = [
            r.url for r in self.requests if not r.url.startswith((f"{self.url}/", "data:", f"blob:{self.url}"))
        ]
        assert elsewhere == []
        assert self.most_at_once <= 1


Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # absent where these tests are skipped

    with sync_playwright() as playwright:  # each launch makes a fresh profile, and removes it
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(BROWSER_OPTIONS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def gallery_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digit models that we ship, a colour model, and one that takes numbers."""
    root = tmp_path_factory.mktemp("gallery")
    for name in DIGIT_MODELS:
        shutil.copytree(MODELS / name, root / name)
    publish(root, "photos", spec=RGB)
    publish(
        root,
        "sign",
        FirstFeature(),
        spec=FeatureInput(shape=(2,), columns=("height", "weight")),
        classes=("negative", "positive"),
    )
    return root


@pytest.fixture(scope="module")
def gallery(gallery_root: Path) -> Iterator[Service]:
    options = ("--default-model", "neural_net", "--http-processes", "1", "--poll-seconds", "0.2")
    with serving(gallery_root, *options, traced=False) as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page of a service; how it behaved is checked at the end."""
    visits: list[Visit] = []

    def open_page(service: Service, *, query: str = "", ready: bool = True, **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(20_000)
        context.add_init_script(IN_THE_PAGE)
        visits.append(Visit(context.new_page(), service.url))
        visits[-1].open(query)
        return visits[-1].wait_until_ready() if ready else visits[-1]

    yield open_page
    for each in visits:
        each.assert_well_behaved()
        each.page.context.close()


def colour_row(class_id: int) -> bytes:
    """A picture of 32 x 32 whose class under `photos` is `class_id`."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 2] = 160
    pixels[class_id] = 255
    return pictures.encode(Image.fromarray(pixels))


@pytest.mark.browser
@pytest.mark.parametrize("model", DIGIT_MODELS)
def test_digits_drawn_with_the_mouse_are_read(visit: Open, gallery: Service, model: str, tmp_path: Path) -> None:
    page = visit(gallery, query=f"?model={model}")

    for digit in STROKES:
        page.draw(digit)
        page.wait_for_answer(digit)
        page.page.screenshot(path=tmp_path / f"{digit}.png", full_page=True)
        page.page.click("#clear")
        page.wait_for_answer("–")


@pytest.mark.browser
def test_an_answer_shows_all_classes_what_the_network_saw_and_where_the_time_went(
    visit: Open, gallery: Service
) -> None:
    page = visit(gallery)

    page.draw("7")
    page.wait_for_answer("7")

    assert page.page.locator("#bars li").all_inner_texts()[0].startswith("0")
    assert page.page.locator("#bars li").count() == 10
    assert page.page.locator("#bars li[data-best=true] .label").inner_text() == "7"
    assert page.page.evaluate("document.getElementById('seen-image').naturalWidth") == 28
    assert page.text("#seen-size") == "28 × 28 grey pixels"
    assert all(page.text(f"#{name}").endswith(" ms") for name in ("round-trip", "ms-decode", "ms-queue", "ms-compute"))
    page.page.wait_for_function("() => document.getElementById('spoken').textContent.startsWith('7, ')")
    assert page.text("#about").startswith("neural_net ")
    assert len([r for r in page.requests if "/predict" in r.url]) >= 2  # it answered while the pen was down


@pytest.mark.browser
def test_digits_that_stand_side_by_side_have_an_answer_each(visit: Open, gallery: Service) -> None:
    page = visit(gallery, viewport={"width": 1280, "height": 800})

    page.draw("3", left=0.45, scale=0.6)
    page.wait_for_answer("3")
    assert page.page.is_hidden("#signs")
    page.draw("4", left=-0.05, scale=0.6)
    page.wait_for_answer("43")
    assert page.page.locator("#signs button").all_inner_texts() == ["4", "3"]
    assert page.page.evaluate("document.documentElement.scrollHeight") <= 800
    assert page.page.locator("#bars li[data-best=true] .label").inner_text() == "4"
    page.page.click("#signs button:nth-child(2)")
    assert page.page.locator("#bars li[data-best=true] .label").inner_text() == "3"
    assert page.text("#best-label") == "43"
    page.page.click("#code summary")
    page.page.wait_for_function("() => document.getElementById('command').textContent.includes('split=true')")
    page.page.click("#clear")
    page.wait_for_answer("–")

    assert page.page.is_hidden("#signs")


@pytest.mark.browser
def test_undo_takes_back_a_stroke_and_a_clearing(visit: Open, gallery: Service) -> None:
    page = visit(gallery)
    page.draw("1")
    page.wait_for_answer("1")

    page.page.click("#clear")
    page.wait_for_answer("–")
    assert page.page.is_disabled("#clear")
    page.page.click("#undo")
    page.wait_for_answer("1")
    page.page.keyboard.press("Control+z")
    page.wait_for_answer("–")
    assert page.page.is_disabled("#undo")


@pytest.mark.browser
def test_the_keyboard_alone_draws_undoes_and_chooses(visit: Open, gallery: Service) -> None:
    page = visit(gallery)
    press = page.page.keyboard.press

    def focused() -> str:
        return str(page.page.evaluate("document.activeElement.id"))

    visited: list[str] = []
    while not visited or visited[-1] != "pad":
        press("Tab")
        visited.append(focused())
        assert len(visited) < 12, visited
    for key in ["Shift+ArrowUp"] * 3 + ["Space"] + ["Shift+ArrowDown"] * 7 + ["Space"]:
        press(key)
    page.wait_for_answer("1")
    press("Tab")
    assert focused() == "undo"
    press("Enter")
    page.wait_for_answer("–")

    links = [""] * 5  # home and the four pages
    assert visited == [*links, "theme", "model", "version", "pad"]


@pytest.mark.browser
def test_a_finger_draws_on_the_narrowest_phone(visit: Open, gallery: Service, tmp_path: Path) -> None:
    page = visit(gallery, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True, device_scale_factor=2)

    page.touch("3")
    page.wait_for_answer("3")
    page.page.screenshot(path=tmp_path / "phone.png", full_page=True)

    assert page.page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.page.evaluate("scrollY") == 0  # the finger drew and did not scroll
    small = (
        "[...document.querySelectorAll('button, select')].filter((e) => e.offsetHeight && e.offsetHeight < 44).length"
    )
    assert page.page.evaluate(small) == 0


@pytest.mark.browser
def test_colours_follow_the_system_until_they_are_chosen(visit: Open, gallery: Service) -> None:
    page = visit(gallery, color_scheme="dark")

    def lightness() -> int:
        colour = str(page.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        return sum(map(int, colour.strip("rgb()").split(",")))

    assert lightness() < 100
    page.page.click("#theme")
    assert lightness() > 600
    page.open().wait_until_ready()
    assert lightness() > 600
    assert page.page.get_attribute("#theme", "aria-pressed") == "false"


@pytest.mark.browser
def test_a_picture_is_dropped_pasted_or_picked(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=photos")

    page.give("drop", "four.png", "image/png", colour_row(4))
    page.wait_for_answer("4")
    assert page.text("#seen-size") == "32 × 32 colour pixels"
    assert page.page.get_attribute("#picture", "alt") == "Your picture, four.png"
    page.give("paste", "two.png", "image/png", colour_row(2))
    page.wait_for_answer("2")
    page.page.set_input_files("#chooser", {"name": "nine", "mimeType": "", "buffer": colour_row(9)})
    page.wait_for_answer("9")
    page.page.click("#clear")
    page.wait_for_answer("–")
    assert page.page.is_visible("#pad")


@pytest.mark.browser
def test_a_bad_file_is_answered_in_the_words_of_the_service(visit: Open, gallery: Service) -> None:
    page = visit(gallery)

    page.give("drop", "letter.txt", "text/plain", b"hello")
    page.page.wait_for_selector("#problem:not([hidden])")
    words = gallery.predict(b"hello").json()
    assert page.text("#problem-title") == "400 Bad Request"
    assert page.text("#problem-detail") == words["detail"]
    assert page.page.get_attribute("#problem", "role") == "alert"

    page.page.click("#clear")
    page.draw("7")
    page.wait_for_answer("7")
    assert page.page.is_hidden("#problem")


@pytest.mark.browser
def test_a_problem_goes_with_the_input_that_caused_it(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=sign")

    page.page.fill("#features input >> nth=0", "1e300")
    page.page.wait_for_selector("#problem:not([hidden])")
    page.page.fill("#features input >> nth=0", "")

    page.page.wait_for_selector("#problem", state="hidden")


@pytest.mark.browser
def test_what_is_see_through_is_shown_over_white_in_the_dark(visit: Open, gallery: Service) -> None:
    page = visit(gallery, color_scheme="dark")
    page.give("drop", "clear.png", "image/png", pictures.encode(Image.new("RGBA", (40, 20))))
    page.page.wait_for_selector("#picture[data-wide=true]")

    shown = Image.open(io.BytesIO(page.page.locator("#picture").screenshot())).convert("L")

    assert shown.width == pytest.approx(2 * shown.height, abs=2)  # and no wider or higher than the picture
    assert shown.getpixel((shown.width // 2, shown.height // 2)) == 255


@pytest.mark.browser
def test_a_blank_picture_has_no_probabilities(visit: Open, gallery: Service) -> None:
    page = visit(gallery)

    page.give("drop", "blank.png", "image/png", pictures.encode(Image.new("L", (40, 40), 255)))
    page.wait_for("#best-share", "A blank picture")

    assert set(page.page.locator("#bars .share").all_inner_texts()) == {"–"}


@pytest.mark.browser
def test_a_frame_of_the_camera_is_a_picture(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=photos")

    page.page.click("#camera")
    page.page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    page.page.click("#shoot")
    page.page.wait_for_selector("#answer[data-empty=false]")

    assert page.page.is_visible("#picture")
    assert page.page.evaluate("document.getElementById('video').srcObject") is None


@pytest.mark.browser
def test_a_model_that_takes_numbers_gets_numbers(visit: Open, gallery: Service) -> None:
    page = visit(gallery)

    page.page.select_option("#model", "sign")
    page.page.fill("#features label:nth-child(1) input", "2.5")
    page.wait_for_answer("positive")
    page.page.fill("#features label:nth-child(1) input", "-1")
    page.wait_for_answer("negative")
    page.page.fill("#features label:nth-child(2) input", "")
    page.wait_for_answer("–")

    assert page.page.is_hidden("#stage")
    assert page.page.is_hidden("#camera")
    assert page.page.is_hidden("#seen")


@pytest.mark.browser
def test_a_new_version_shows_itself_and_the_old_one_can_be_chosen(
    visit: Open, gallery: Service, gallery_root: Path
) -> None:
    page = visit(gallery, query="?model=photos")
    assert page.text("#version") == "1 · default"
    page.give("drop", "four.png", "image/png", colour_row(4))
    page.wait_for_answer("4")

    publish(gallery_root, "photos", spec=RGB)
    while '"photos@2":true' not in gallery.client.get("/readyz").text:
        time.sleep(0.05)
    page.page.evaluate("dispatchEvent(new Event('online'))")  # its next look is up to ten seconds away
    page.page.wait_for_selector("#version option[value='2']", state="attached")
    assert page.page.input_value("#version") == "2"
    assert not any("version=" in request.url for request in page.requests)
    with page.page.expect_request(lambda request: "version=1" in request.url):
        page.page.select_option("#version", "1")
    page.wait_for_answer("4")

    assert page.page.url.endswith("?model=photos&version=1")
    page.page.reload()
    assert page.wait_until_ready().page.input_value("#version") == "1"


@pytest.mark.browser
def test_the_page_asks_for_a_key_and_comes_back_with_the_service(visit: Open, tmp_path: Path) -> None:
    publish(tmp_path / "registry", "rows")
    keys = tmp_path / "keys"
    keys.write_text(f"page predict {hashlib.sha256(b'open-sesame').hexdigest()}\n")
    options = ("--http-processes", "1", "--api-keys-file", str(keys))

    with serving(tmp_path / "registry", *options, traced=False) as first:
        page = visit(first, ready=False)
        page.wait_for("#key-title", "This service asks for an API key")
        assert page.page.is_hidden("#problem")
        page.page.fill("#key", "guessed")
        page.page.keyboard.press("Enter")
        page.page.wait_for_selector(".key-problem")
        page.page.fill("#key", "open-sesame")
        page.page.keyboard.press("Enter")
        page.wait_until_ready().draw("1")
        page.page.wait_for_selector("#answer[data-empty=false]")
        assert page.page.locator("#key-dialog").count() == 0
        page.page.click("text=Models")
        page.page.wait_for_selector("[data-version='rows@1']")
        page.page.click("text=Metrics")
        page.page.wait_for_selector(".chart")
        page.page.click("text=API")
        page.page.wait_for_selector(".operation")
        with page.page.expect_download() as download:
            page.page.click("#save-openapi")
        assert json.loads(download.value.path().read_text())["info"]["title"] == "Argmax"
        page.page.click("text=Try")
        page.wait_until_ready().draw("1")
        page.page.wait_for_selector("#answer[data-empty=false]")
        page.page.click("#code summary")
        page.page.wait_for_function("() => document.getElementById('command').textContent.includes('ARGMAX_API_KEY')")
        assert "open-sesame" not in page.text("#command")
        port = first.port
        first.stop()

    page.draw("7")
    page.wait_for("#state-text", "Not reachable")
    publish(tmp_path / "registry", "rows")
    with serving(tmp_path / "registry", *options, "--port", str(port), traced=False):
        page.wait_until_ready()
        page.page.wait_for_function("() => document.getElementById('about').textContent.startsWith('rows 2')")
        page.page.wait_for_selector("#answer[data-empty=false]")
        assert page.text("#state-text") == "Ready"


@pytest.mark.browser
def test_an_administrator_promotes_a_version_and_rolls_it_back(visit: Open, tmp_path: Path) -> None:
    for _ in range(2):
        publish(tmp_path / "registry", "rows")
    keys = tmp_path / "keys"
    scopes = {"guest": "predict", "boss": "predict,admin"}
    keys.write_text("".join(f"{k} {v} {hashlib.sha256(k.encode()).hexdigest()}\n" for k, v in scopes.items()))
    options = ("--default-model", "rows", "--http-processes", "1", "--poll-seconds", "0.2")

    with serving(tmp_path / "registry", *options, "--api-keys-file", str(keys), traced=False) as service:
        page = visit(service, query="page/models.html", ready=False)

        def states() -> list[str]:
            return page.page.locator("tbody tr:first-child td").all_inner_texts()

        page.page.fill("#key", "guest")
        page.page.keyboard.press("Enter")
        page.page.wait_for_selector("[data-version='rows@2']")
        assert states() == ["in production, ready", "ready"]
        page.page.get_by_label("Version").fill("1")
        page.page.click("text=Promote")
        page.page.wait_for_selector(".key-problem >> text=scope admin")
        page.page.fill("#key", "boss")
        page.page.keyboard.press("Enter")
        page.wait_for("#changed", "rows 1 is in production.")
        page.page.set_viewport_size({"width": 360, "height": 200})
        top = (
            "() => { scrollTo(0, document.body.scrollHeight);"
            " return [scrollY, document.getElementById('changed').getBoundingClientRect().top]; }"
        )
        scrolled, seen_at = page.page.evaluate(top)
        assert scrolled > 0
        assert 0 <= seen_at < 200
        page.page.wait_for_function(
            "() => document.querySelector('tbody td:last-child').innerText === 'production, ready'"
        )
        assert states() == ["ready", "production, ready"]
        page.page.get_by_label("Version").fill("7")
        page.page.click("text=Promote")
        page.page.wait_for_selector("#problem:not([hidden]) >> text=404")
        page.page.click("text=Roll back")
        page.wait_for("#changed", "rows 2 is in production.")
        page.page.wait_for_function("() => document.querySelector('tbody td').innerText === 'production, ready'")

        assert page.page.is_hidden("#problem")

        page.page.route("**/models", with_a_refused_version)
        page.page.reload()
        page.page.wait_for_selector("text=refused: no reason")
        assert page.page.get_by_label("Version").input_value() == "1"


def with_a_refused_version(route: Route) -> None:
    document = route.fetch().json()
    document["absent"].append({"name": "rows", "version": 3, "state": "refused", "reason": "no reason"})
    route.fulfill(json=document)


@pytest.mark.browser
def test_nobody_is_offered_to_promote_where_no_keys_are_asked_for(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="page/models.html", ready=False)

    page.page.wait_for_selector("[data-version^='neural_net@']")

    assert page.page.locator("text=Promote").count() == 0


@pytest.mark.browser
def test_the_documentation_shows_every_operation_and_loads_nothing_from_elsewhere(
    visit: Open, gallery: Service
) -> None:
    paths = gallery.client.get("/openapi.json").json()["paths"]
    operations = {
        f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "parameters"
    }

    page = visit(gallery, query="docs", ready=False)
    page.page.wait_for_selector(".operation")

    shown = page.page.eval_on_selector_all(
        ".operation",
        "all => all.map((one) => ['.method', 'code'].map((x) => one.querySelector(x).textContent).join(' '))",
    )
    assert set(shown) == operations
    assert len(shown) == len(operations)
    assert page.page.is_visible("#post-predict table >> text=Add this many of the most probable classes")
    heights = page.page.eval_on_selector_all(
        "#post-predict .fields :is(input, select)", "all => all.map((one) => one.offsetHeight)"
    )
    assert set(heights) == {40}
    assert "[object" not in page.page.inner_text("#operations")
    page.page.click("#post-v2-models-model-infer summary")
    assert '"datatype": string' in page.text("#post-v2-models-model-infer")


@pytest.mark.browser
def test_the_documentation_sends_a_request_and_shows_the_answer(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="docs", ready=False)
    page.page.wait_for_selector(".operation")
    operation = page.page.locator("#post-predict")

    operation.get_by_label("model (optional)").fill("sign")
    operation.get_by_label("Body", exact=True).last.fill('{"features": [[2.5, 0]]}')
    operation.get_by_role("button", name="Send", exact=True).click()
    operation.locator(".status").wait_for()
    answered = operation.locator(".result").inner_text()
    operation.get_by_label("top_k (optional)").fill("3")
    operation.locator(".body select").select_option("image/png")
    operation.locator("input[type=file]").set_input_files(
        {"name": "four.png", "mimeType": "image/png", "buffer": colour_row(4)}
    )
    operation.get_by_label("model (optional)").fill("photos")
    operation.get_by_role("button", name="Send", exact=True).click()
    page.page.wait_for_function("() => document.querySelector('#post-predict .result')?.innerText.includes('top_k')")

    assert "POST /predict?model=sign" in answered
    assert "200 OK" in answered
    assert '"label": "positive"' in answered
    assert '"label": "4"' in operation.locator(".result").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("model", ["neural_net", "photos", "sign"])
def test_everything_needed_fits_a_small_laptop(visit: Open, gallery: Service, model: str) -> None:
    page = visit(gallery, query=f"?model={model}", viewport={"width": 1280, "height": 800})

    if model == "neural_net":
        page.draw("7")
        page.wait_for_answer("7")

    assert page.page.evaluate("document.documentElement.scrollHeight") <= 800
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.browser
def test_the_drawn_examples_are_read(visit: Open, gallery: Service) -> None:
    page = visit(gallery)

    for digit in range(10):
        page.page.click(f"#examples button:nth-child({digit + 1})")
        page.wait_for_answer(str(digit))
    page.page.click("#undo")
    page.wait_for_answer("8")
    page.page.select_option("#model", "photos")
    page.page.wait_for_selector("#examples", state="hidden")


def files_of(*named: tuple[str, bytes]) -> list[Any]:
    return [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in named]


@pytest.mark.browser
def test_several_files_make_a_table_that_is_sorted_and_downloaded(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=photos")
    given = files_of(("b, 2.png", colour_row(2)), ("a.png", colour_row(9)), ("c.txt", b"hello"))

    def shown(column: int) -> list[str]:
        return page.page.locator(f"#rows tr > :nth-child({column})").all_inner_texts()

    page.page.set_input_files("#chooser", given)
    page.wait_for("#files-progress", "3 pictures, 1 refused")
    assert page.page.is_hidden("#bench")
    assert shown(2) == ["b, 2.png", "a.png", "c.txt"]
    assert shown(3) == ["2", "9", gallery.predict(b"hello").json()["detail"]]
    page.page.click("#sort-file")
    assert shown(2) == ["a.png", "b, 2.png", "c.txt"]
    page.page.click("#sort-file")
    assert shown(2) == ["c.txt", "b, 2.png", "a.png"]
    assert page.page.get_attribute("th:nth-child(2)", "aria-sort") == "descending"
    page.page.click("#sort-answer")
    assert shown(3)[1:] == ["2", "9"]
    with page.page.expect_download() as table:
        page.page.click("#save-csv")
    with page.page.expect_download() as document:
        page.page.click("#save-json")
    page.page.click("text=a.png")
    page.wait_for_answer("9")

    rows = list(csv.DictReader(io.StringIO(table.value.path().read_text())))
    records = json.loads(document.value.path().read_text())
    assert table.value.suggested_filename == "predictions.csv"
    assert [(row["file"], row["label"]) for row in rows] == [("c.txt", ""), ("b, 2.png", "2"), ("a.png", "9")]
    assert rows[0]["error"] == records[0]["error"]
    assert records[2]["label"] == "9"
    assert float(rows[1]["probability"]) == records[1]["probability"]
    assert page.page.is_hidden("#files")


@pytest.mark.browser
def test_the_table_of_pictures_is_readable_on_a_phone(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=photos", viewport={"width": 320, "height": 640})

    page.page.set_input_files("#chooser", files_of(("a-rather-long-name.png", colour_row(2)), ("c.txt", b"hello")))
    page.wait_for("#files-progress", "2 pictures, 1 refused")
    widths = page.page.evaluate("[...document.querySelectorAll('#rows tr > :nth-child(3)')].map((e) => e.offsetWidth)")

    assert min(widths) >= 60
    assert page.page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.table'))") == 0


@pytest.mark.browser
def test_another_model_answers_for_every_file_again(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=photos")
    page.page.set_input_files("#chooser", files_of(("two.png", colour_row(2)), ("nine.png", colour_row(9))))
    page.wait_for("#files-progress", "2 pictures")

    with page.page.expect_request(lambda request: "model=neural_net" in request.url):
        page.page.select_option("#model", "neural_net")
    page.wait_for("#files-progress", "2 pictures")
    page.page.click("#close-files")

    assert page.page.is_visible("#pad")


@pytest.mark.browser
@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
@pytest.mark.parametrize("given", ["a drawing", "a file", "numbers"])
def test_the_code_that_is_shown_repeats_the_request(
    visit: Open, gallery: Service, tmp_path: Path, language: str, given: str
) -> None:
    program = {"curl": "bash", "python": sys.executable, "javascript": shutil.which("node", path=PATH)}[language]
    if program is None or (language == "curl" and not shutil.which("curl")):
        pytest.skip(f"needs {language}")
    model = {"a drawing": "neural_net", "a file": "photos", "numbers": "sign"}[given]
    page = visit(gallery, query=f"?model={model}")

    if given == "a drawing":
        page.page.click("#examples button:nth-child(5)")
    elif given == "a file":
        (tmp_path / "it's 4.png").write_bytes(colour_row(4))
        page.page.set_input_files("#chooser", tmp_path / "it's 4.png")
    else:
        page.page.fill("#features label:nth-child(1) input", "2.5")
    page.wait_for_answer("positive" if given == "numbers" else "4")
    page.page.click("#code summary")
    page.page.click(f"#as-{language}")
    written = {"curl": "curl -H", "python": "urlopen(", "javascript": "await fetch("}[language]
    page.page.wait_for_function(f"() => document.getElementById('command').textContent.includes('{written}')")
    script = tmp_path / {"curl": "ask.sh", "python": "ask.py", "javascript": "ask.mjs"}[language]
    script.write_text(page.page.text_content("#command") or "")
    ran = subprocess.run([program, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    answer = ast.literal_eval(ran.stdout) if language == "python" else json.loads(ran.stdout)
    (prediction,) = answer["predictions"]
    assert (answer["model"], prediction["label"]) == (model, page.text("#best-label"))
    assert len(prediction["probabilities"]) == page.page.locator("#bars li").count()
    assert prediction.get("input") == page.page.get_attribute("#seen-image", "src")  # the same pixels, or none


@pytest.mark.browser
def test_the_code_is_copied(visit: Open, gallery: Service) -> None:
    page = visit(gallery, permissions=["clipboard-read", "clipboard-write"])
    page.draw("1")
    page.wait_for_answer("1")

    page.page.click("#code summary")
    page.page.wait_for_function("() => document.getElementById('command').textContent.startsWith('echo ')")
    page.page.click("#copy")
    page.wait_for("#copied", "Copied")

    assert page.page.evaluate("navigator.clipboard.readText()") == page.page.text_content("#command")


@pytest.mark.browser
def test_the_models_page_shows_versions_and_a_card_with_its_plots(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="page/models.html", ready=False)

    page.page.wait_for_selector("text=neural_net, version")
    page.page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#card img')];"
        " return all.length > 1 && all.every((image) => image.naturalWidth > 100); }"
    )
    first = page.page.locator(".model").first
    state = first.locator("tbody tr:first-child td").first.inner_text()
    measured = first.locator("tbody th").all_inner_texts()
    page.page.click("[data-version^='photos@']")
    page.page.wait_for_selector("text=was published without a card")

    assert state == "in production, ready"
    assert measured[:2] == ["State", "Right\nmnist/test, n = 10,000"]
    assert page.page.locator(".model h2").first.inner_text() == "neural_net answers by default"
    assert page.page.locator("#card table").count() == 0


@pytest.mark.browser
def test_a_card_is_readable_on_a_phone(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="page/models.html", ready=False, viewport={"width": 320, "height": 640})
    page.page.wait_for_selector("text=neural_net, version")

    broken = page.page.evaluate(
        """() => [...document.querySelectorAll("#card td")].filter((cell) => {
          const range = document.createRange();
          range.selectNodeContents(cell);
          const lines = new Set([...range.getClientRects()].map(({ top }) => top));
          return /^[-\\d.,]+%?$/.test(cell.innerText) && lines.size > 1;
        }).map((cell) => cell.innerText)"""
    )

    assert broken == []  # numbers
    assert page.page.evaluate("document.documentElement.scrollWidth") == 320


@pytest.mark.browser
def test_the_metrics_page_draws_what_happens(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="page/metrics.html", ready=False)
    page.page.wait_for_selector(".chart path[d]:not([d=''])", state="attached")

    for _ in range(20):
        gallery.predict(colour_row(4), query="?model=photos")

    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.chart')].some((chart) => chart.innerText.includes('Latency')"
        " && / ms/.test(chart.innerText))"
    )
    assert page.page.locator(".chart").count() == 6
    assert page.page.locator(".chart", has_text="Processes").locator("b").all_inner_texts()[:2] == ["1", "1"]
    overlaps = (
        "[...document.querySelectorAll('.plot')].filter((plot) => plot.querySelector('.top-value')"
        ".getBoundingClientRect().bottom > plot.getBoundingClientRect().top + 1).length"
    )
    assert page.page.evaluate(overlaps) == 0  # the highest value is not written over the newest ones


@pytest.mark.browser
def test_a_line_of_a_chart_is_interrupted_where_there_is_no_value(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="page/metrics.html", ready=False)

    outline = page.page.evaluate(
        """async () => {
          const { Chart } = await import("./chart.js");
          const chart = new Chart({ title: "", lines: ["one"], write: String, points: 9 });
          for (const value of [1, 2, null, null, 1, 2]) chart.add([value]);
          return chart.element.querySelector("path").getAttribute("d");
        }"""
    )

    assert (outline.count("M"), outline.count("L")) == (2, 2)


@pytest.mark.browser
def test_features_are_named_by_their_columns_if_the_model_has_them(visit: Open, gallery: Service) -> None:
    page = visit(gallery, query="?model=sign")
    assert page.page.locator("#features label").all_inner_texts() == ["height", "weight"]

    def without_columns(route: Route) -> None:
        document = route.fetch().json()
        for model in document["models"]:
            if model["name"] == "sign":
                model["input"]["columns"] = None
        route.fulfill(json=document)

    page.page.route("**/models", without_columns)
    page.page.reload()
    page.wait_until_ready()

    assert page.page.locator("#features label").all_inner_texts() == ["x1", "x2"]
