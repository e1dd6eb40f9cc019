// A field for each number that a feature model takes.

import { by, make } from "./dom.js";

// onChange(): a number has changed.
export class FeatureForm {
  #form = by("features");
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
    this.#form.addEventListener("input", onChange);
    this.#form.addEventListener("paste", (event) => this.#paste(event));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
  }

  // Shows a field for each of `columns`; those that are there already keep their numbers.
  show(columns) {
    const shown = [...this.#form.querySelectorAll("span")].map((each) => each.textContent);
    if (shown.join("\n") === columns.join("\n")) return;
    const field = () => make("input", { type: "number", step: "any", value: "0" });
    this.#form.replaceChildren(
      ...columns.map((name) => make("label", {}, make("span", { title: name }, name), field())),
    );
  }

  reset() {
    this.#form.reset();
    this.#onChange();
  }

  // The numbers, or null if one is missing or malformed.
  values() {
    const fields = [...this.#form.elements];
    for (const field of fields) field.setAttribute("aria-invalid", String(!Number.isFinite(field.valueAsNumber)));
    const values = fields.map((field) => field.valueAsNumber);
    return values.every(Number.isFinite) ? values : null;
  }

  // A row of a table, pasted into one field, fills those that follow.
  #paste(event) {
    const values = event.clipboardData
      .getData("text")
      .split(/[\s,;]+/)
      .filter(Boolean);
    if (values.length < 2 || !values.every((value) => Number.isFinite(Number(value)))) return;
    event.preventDefault();
    const fields = [...this.#form.elements];
    const first = Math.max(0, fields.indexOf(event.target));
    values.forEach((value, i) => {
      if (fields[first + i]) fields[first + i].value = value;
    });
    this.#onChange();
  }
}

// The names of a feature model's numbers: those of its table, else x1, x2 and so on.
export function columnsOf({ shape: [count], columns }) {
  return columns ?? Array.from({ length: count }, (_, i) => `x${i + 1}`);
}
