// The signs that were found in one picture, from left to right: which of them is shown is the reader's choice.

import { by, make } from "./dom.js";

export class Signs {
  #chosen = 0;
  #onChoose;

  // onChoose(): another sign is to be shown.
  constructor(onChoose) {
    this.#onChoose = onChoose;
  }

  // Shows a button for each of `predictions`, if there are several, and gives the chosen one.
  show(predictions) {
    this.#chosen = Math.min(this.#chosen, predictions.length - 1);
    const list = by("signs");
    list.hidden = predictions.length < 2;
    if (list.childElementCount !== predictions.length) {
      list.replaceChildren(...predictions.map((_, i) => this.#button(i)));
    }
    predictions.forEach(({ label, input }, i) => {
      const button = list.children[i];
      button.setAttribute("aria-pressed", String(i === this.#chosen));
      button.querySelector("img").src = input;
      button.querySelector("span").textContent = label ?? "–";
    });
    return predictions[this.#chosen];
  }

  clear() {
    this.#chosen = 0;
    by("signs").hidden = true;
  }

  #button(i) {
    const button = make("button", { type: "button" }, make("img", { alt: "" }), make("span", {}));
    button.addEventListener("click", () => {
      this.#chosen = i;
      this.#onChoose();
    });
    return button;
  }
}
