// Several pictures at once: a table with a row for each, which can be sorted and downloaded.

import { by, make } from "./dom.js";
import { Refusal } from "./service.js";
import { save } from "./snippets.js";

const COLUMNS = {
  file: (row) => row.file.name,
  answer: (row) => row.label ?? "",
  probability: (row) => row.probability ?? -1,
};

export class FileTable {
  #ask;
  #onOpen;
  #onClose;
  #rows = [];
  #sort = { column: "", ascending: true };
  #work = new AbortController();

  // ask(file, signal) gives an answer; onOpen(file) shows one file alone; onClose() is called when the table goes.
  constructor({ ask, onOpen, onClose }) {
    this.#ask = ask;
    this.#onOpen = onOpen;
    this.#onClose = onClose;
    for (const column of Object.keys(COLUMNS)) {
      by(`sort-${column}`).addEventListener("click", () => this.#sortBy(column));
    }
    by("save-csv").addEventListener("click", () => save(this.#csv(), "predictions.csv"));
    by("save-json").addEventListener("click", () => save(this.#json(), "predictions.json"));
    by("close-files").addEventListener("click", () => {
      this.close();
      this.#onClose();
    });
  }

  get isOpen() {
    return this.#rows.length > 0;
  }

  // Adds `files` to the table and asks about them.
  open(files) {
    const rows = files.map((file) => ({ file, element: this.#element(file) }));
    this.#rows.push(...rows);
    this.#show(true);
    by("rows").append(...rows.map((row) => row.element));
    this.#run();
  }

  // Asks about every file again: another model answers now.
  restart() {
    for (const row of this.#rows) {
      Object.assign(row, { label: undefined, probability: undefined, error: undefined, blank: false, done: false });
      this.#fill(row);
    }
    this.#run();
  }

  close() {
    this.#work.abort();
    for (const { element } of this.#rows) URL.revokeObjectURL(element.querySelector("img").src);
    this.#rows = [];
    by("rows").replaceChildren();
    this.#show(false);
  }

  #show(isOpen) {
    by("files").hidden = !isOpen;
    by("bench").hidden = by("code").hidden = isOpen;
  }

  async #run() {
    this.#work.abort();
    this.#work = new AbortController();
    const { signal } = this.#work;
    this.#progress();
    for (const row of this.#rows.filter((each) => !each.done)) {
      const found = await this.#answer(row.file, signal);
      if (signal.aborted) return;
      Object.assign(row, found, { done: true });
      this.#fill(row);
      this.#progress();
    }
    if (this.#sort.column) this.#arrange();
  }

  // The answer for a file, or the error in place of one. Waits as long as the service is busy.
  async #answer(file, signal) {
    for (;;) {
      try {
        const { model, version, predictions } = await this.#ask(file, signal);
        const { label, probability, outlier, blank = false } = predictions[0];
        return { model, version, label: label ?? "", probability: probability ?? undefined, outlier, blank };
      } catch (error) {
        if (signal.aborted) return {};
        if (!(error instanceof Refusal && error.passes)) {
          return { error: error instanceof Refusal ? error.detail : "The service did not answer." };
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * error.retrySeconds));
        if (signal.aborted) return {};
      }
    }
  }

  #element(file) {
    const name = make("button", { type: "button", class: "plain" }, file.name || "Pasted picture");
    name.addEventListener("click", () => {
      this.close();
      this.#onOpen(file);
    });
    const image = make("img", { alt: "", width: "40", height: "40", loading: "lazy" });
    image.addEventListener("error", () => image.classList.add("broken")); // no picture: the service says why
    image.src = URL.createObjectURL(file);
    return make(
      "tr",
      {},
      make("td", {}, image),
      make("th", { scope: "row" }, name),
      make("td", {}, "…"),
      make("td", { class: "number" }, ""),
    );
  }

  #fill({ element, label, probability, outlier, blank, error }) {
    const [, , answer, share] = element.children;
    element.dataset.bad = String(Boolean(error));
    answer.textContent = error ?? (blank ? "blank" : outlier ? `${label} (an outlier)` : (label ?? "…"));
    answer.colSpan = error ? 2 : 1; // the reason is long
    share.hidden = Boolean(error);
    share.textContent = probability === undefined ? "" : `${(100 * probability).toFixed(2)} %`;
  }

  #progress() {
    const done = this.#rows.filter((row) => row.done).length;
    const bad = this.#rows.filter((row) => row.error).length;
    const count = this.#rows.length;
    const text = done < count ? `${done} of ${count} answered` : count === 1 ? "1 picture" : `${count} pictures`;
    by("files-progress").textContent = bad ? `${text}, ${bad} refused` : text;
    by("save-csv").disabled = by("save-json").disabled = done < count;
  }

  #sortBy(column) {
    const ascending = this.#sort.column === column ? !this.#sort.ascending : column !== "probability";
    this.#sort = { column, ascending };
    for (const each of Object.keys(COLUMNS)) {
      const order = each !== column ? "none" : ascending ? "ascending" : "descending";
      by(`sort-${each}`).closest("th").setAttribute("aria-sort", order);
    }
    this.#arrange();
  }

  #arrange() {
    const key = COLUMNS[this.#sort.column];
    const direction = this.#sort.ascending ? 1 : -1;
    this.#rows.sort((one, other) => direction * compare(key(one), key(other)));
    by("rows").append(...this.#rows.map((row) => row.element));
  }

  #csv() {
    const header = ["file", "label", "probability", "outlier", "model", "version", "error"];
    const lines = this.#records().map((record) => header.map((name) => cell(record[name] ?? "")).join(","));
    return new Blob([`${[header.join(","), ...lines].join("\r\n")}\r\n`], { type: "text/csv" });
  }

  #json() {
    return new Blob([`${JSON.stringify(this.#records(), null, 2)}\n`], { type: "application/json" });
  }

  #records() {
    return this.#rows.map(({ file, label, probability, outlier, model, version, error }) =>
      error ? { file: file.name, error } : { file: file.name, label, probability, outlier, model, version },
    );
  }
}

function compare(one, other) {
  return typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
}

// A value as CSV writes it (RFC 4180).
function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
