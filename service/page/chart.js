// A small line chart, drawn as SVG. Knows nothing about metrics.

import { make } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;

function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

export class Chart {
  element;
  #lines;
  #write;
  #top = make("span", { class: "top-value", "aria-hidden": "true" });
  #points = 0;

  // `lines` are the names of what is drawn, `write` turns a value into text, `points` is how many fit.
  constructor({ title, lines, write, points }) {
    this.#write = write;
    this.#points = points;
    this.#lines = lines.map((name, i) => ({
      values: [],
      path: shape("path", { class: "line", "data-line": i, fill: "none", "vector-effect": "non-scaling-stroke" }),
      label: make("b", {}, "–"),
      name,
    }));
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(...this.#lines.map(({ path }) => path));
    const legend = this.#lines.map(({ name, label }, i) =>
      make("span", { class: "key-line", "data-line": `${i}` }, `${name} `, label),
    );
    this.element = make(
      "figure",
      { class: "chart" },
      make("figcaption", {}, title),
      make("div", { class: "plot" }, svg, this.#top),
      make("p", { class: "legend" }, legend),
    );
  }

  // Adds a value for each line; null leaves a gap.
  add(values) {
    this.#lines.forEach((line, i) => {
      line.values.push(values[i]);
      if (line.values.length > this.#points) line.values.shift();
      line.label.textContent = values[i] === null ? "–" : this.#write(values[i]);
    });
    const highest = Math.max(...this.#lines.flatMap(({ values: all }) => all.map((value) => value ?? 0)));
    this.#top.textContent = highest > 0 ? this.#write(highest) : "";
    for (const line of this.#lines) line.path.setAttribute("d", this.#outline(line.values, highest || 1));
  }

  // The line as an SVG path. It is interrupted at gaps; a value between two of them is a dot.
  #outline(values, highest) {
    const step = WIDTH / (this.#points - 1);
    const left = WIDTH - (values.length - 1) * step;
    const at = (value, i) =>
      `${(left + i * step).toFixed(1)},${(HEIGHT - 2 - (value / highest) * (HEIGHT - 8)).toFixed(1)}`;
    return values
      .map((value, i) => {
        if (value === null) return "";
        const goesOn = (values[i - 1] ?? null) !== null;
        return goesOn ? `L${at(value, i)}` : `M${at(value, i)}h0`;
      })
      .join("");
  }
}
