// Ten digits to begin with, drawn for this page. They are dedicated to the public domain (CC0 1.0).

import { by, make } from "./dom.js";
import { paint } from "./pad.js";

const THUMBNAIL_PIXELS = 72;

// A drawing is a list of strokes, a stroke a list of points: x and y in hundredths of the pad.
const DIGITS = [
  "50,16 39,21 33,34 32,52 35,70 44,82 54,83 64,74 69,58 68,38 62,22 50,16",
  "40,30 52,17 52,34 51,52 51,68 51,84",
  "33,32 38,21 49,16 61,20 66,31 62,44 52,57 41,70 32,82 46,81 58,81 70,82",
  "32,24 42,16 56,16 65,25 64,36 55,45 45,48 57,51 67,60 67,72 57,82 43,83 31,76",
  "42,16 37,34 32,52 45,53 58,53 70,52|62,20 61,38 60,54 59,70 58,86",
  "66,18 52,18 38,18 36,32 34,46 46,43 58,46 66,56 66,70 57,81 43,83 31,77",
  "60,16 48,26 38,42 33,58 35,73 45,83 57,82 66,73 65,61 55,54 44,57 35,66",
  "30,20 44,19 57,19 70,20 64,36 57,51 50,66 44,84",
  "60,22 49,17 38,22 37,33 46,42 57,50 66,60 66,73 56,83 43,82 34,73 35,61 45,51 57,42 63,32 60,22",
  "65,30 57,19 44,18 35,28 37,41 48,48 59,43 65,32 64,48 61,66 56,84",
].map((text) => text.split("|").map((stroke) => stroke.split(" ").map(point)));

function point(text) {
  const [x, y] = text.split(",").map(Number);
  return { x: x / 100, y: y / 100 };
}

export class Examples {
  #buttons;

  // onChoose(strokes): the user wants this drawing.
  constructor(onChoose) {
    this.#buttons = DIGITS.map((strokes, digit) => {
      const canvas = make("canvas", { width: THUMBNAIL_PIXELS, height: THUMBNAIL_PIXELS, "aria-hidden": "true" });
      const button = make("button", { type: "button", "aria-label": `Example: a drawn ${digit}` }, canvas);
      button.addEventListener("click", () => onChoose(strokes));
      return button;
    });
    by("examples").append(...this.#buttons);
    this.#paint();
    new MutationObserver(() => this.#paint()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  show(isShown) {
    by("examples").hidden = !isShown;
    if (isShown) this.#paint();
  }

  #paint() {
    this.#buttons.forEach((button, digit) => {
      const context = button.firstChild.getContext("2d");
      context.clearRect(0, 0, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS);
      paint(context, DIGITS[digit], THUMBNAIL_PIXELS, getComputedStyle(button).color);
    });
  }
}
