// Shows an answer: the best class, a bar for each, what the network saw, and where the time went.

import { by } from "./dom.js";
import { Signs } from "./signs.js";

const MANY = 20; // more classes than this are sorted by probability, in a list that scrolls
const SPOKEN_AFTER_MS = 700; // a screen reader hears the answer once the hand rests
const FOREIGN = "unlike what it was taught";
const STAGES = ["decode", "queue", "compute", "rest"];

export class AnswerView {
  #rows = [];
  #speech = 0;
  #answer = null;
  #signs = new Signs(() => this.show(this.#answer));

  // Bars for `classes`, all empty.
  setClasses(classes, input) {
    const many = classes.length > MANY;
    const list = by("bars");
    const longest = Math.max(...classes.map((label) => label.length));
    list.dataset.many = String(many);
    list.style.setProperty("--label", `${Math.min(longest, 22) + 1}ch`);
    if (many) list.tabIndex = 0;
    else list.removeAttribute("tabindex");
    this.#rows = classes.map(row);
    list.replaceChildren(...this.#rows);
    by("seen").hidden = input.kind !== "image";
    by("seen-size").textContent = input.kind === "image" ? `${sizeOf(input)} pixels` : "";
    this.clear();
  }

  clear(text = "Nothing to see yet") {
    by("answer").dataset.empty = "true";
    by("answer").dataset.outlier = "false";
    by("best-label").textContent = "–";
    delete by("best-label").dataset.length;
    by("best-share").textContent = text;
    this.#signs.clear();
    by("seen-image").hidden = true;
    by("seen-blank").hidden = false;
    for (const element of this.#rows) fill(element, 0, "–", false);
    this.#showTimes({});
    this.#say("");
  }

  // Shows an answer: all its labels in one, and of the chosen sign what the network saw and made of it.
  show(answer) {
    const { model, version, predictions, milliseconds } = answer;
    const { class_id: best, label: own, probabilities = [], input, blank = false } = this.#signs.show(predictions);
    const label = predictions.map((each) => each.label ?? "–").join(predictions.every(isShort) ? "" : " ");
    const probability = predictions.reduce((product, each) => product * each.probability, 1);
    const outlier = predictions.some((each) => each.outlier);
    this.#answer = answer;
    by("answer").dataset.empty = "false";
    by("answer").dataset.outlier = String(outlier);
    by("best-label").textContent = label;
    by("best-label").dataset.length = label.length <= 3 ? "sign" : label.length <= 12 ? "word" : "phrase";
    const sure = `${percent(probability)} sure${predictions.length > 1 ? " of all" : ""}`;
    const verdict = blank ? "A blank picture" : `${sure}${outlier ? `, but ${FOREIGN}` : ""}`;
    by("best-share").textContent = verdict;
    if (input) {
      by("seen-image").src = input;
      by("seen-image").alt = blank ? "A blank picture" : `The picture of ${own} as the network saw it`;
    }
    by("seen-image").hidden = !input;
    by("seen-blank").hidden = Boolean(input);
    for (const [i, element] of this.#rows.entries()) {
      const share = probabilities[i] ?? 0;
      fill(element, share, blank ? "–" : percent(share), i === best);
    }
    if (by("bars").dataset.many === "true") this.#sort(probabilities);
    this.#showTimes(milliseconds);
    this.#say(`${label}, ${verdict}, by ${model} version ${version}`);
  }

  #sort(probabilities) {
    const order = [...this.#rows.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    by("bars").replaceChildren(...order.map((i) => this.#rows[i]));
  }

  /** @param {{total?: number, [stage: string]: number}} found */
  #showTimes({ total, ...known }) {
    const measured = total === undefined ? {} : known;
    const inside = Object.values(measured).reduce((sum, value) => sum + value, 0);
    const parts = total === undefined ? {} : { ...measured, rest: Math.max(0, total - inside) };
    by("round-trip").textContent = milliseconds(total);
    for (const stage of STAGES) {
      by(`ms-${stage}`).textContent = milliseconds(parts[stage]);
      const part = /** @type {HTMLElement} */ (document.querySelector(`.time-bar [data-stage="${stage}"]`));
      part.style.setProperty("--share", String((parts[stage] ?? 0) / (total || 1)));
    }
  }

  #say(text) {
    clearTimeout(this.#speech);
    this.#speech = setTimeout(() => (by("spoken").textContent = text), SPOKEN_AFTER_MS);
  }
}

const isShort = ({ label }) => (label ?? "–").length === 1;

export function sizeOf({ shape: [channels, height, width] }) {
  return `${width} × ${height}${channels === 1 ? " grey" : " colour"}`;
}

function row(label) {
  const element = document.createElement("li");
  const parts = ["label", "track", "share"].map((name) =>
    Object.assign(document.createElement("span"), { className: name }),
  );
  parts[0].textContent = parts[0].title = label;
  parts[1].append(Object.assign(document.createElement("span"), { className: "fill" }));
  element.append(...parts);
  return element;
}

function fill(element, share, text, best) {
  element.dataset.best = String(best);
  element.querySelector(".fill").style.setProperty("--share", share);
  element.querySelector(".share").textContent = text;
}

// Never 100 % of what is not certain, nor 0 of what is not impossible.
function percent(share) {
  if (share < 0.001) return "< 0.1 %";
  if (share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

function milliseconds(value) {
  if (value === undefined) return "–";
  return `${value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0)} ms`;
}
