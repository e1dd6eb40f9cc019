// Which model and version is asked: two menus, and the address that remembers the choice.

import { by } from "./dom.js";

export class Picker {
  #onChange;
  #models = [];
  chosen = null; // an entry of /models

  // onChange(isNew): the user chose, or the chosen entry has changed; isNew tells whether it differs at all.
  constructor(onChange) {
    this.#onChange = onChange;
    by("model").addEventListener("change", (event) => this.#pick(event.target.value));
    by("version").addEventListener("change", (event) => this.#pick(this.chosen.name, Number(event.target.value)));
  }

  // Takes over a new list. Keeps what was chosen, else follows the address, else the default.
  update({ models, default: byDefault }) {
    this.#models = models;
    const wanted = new URLSearchParams(location.search);
    const names = [...new Set(models.map(({ name }) => name))];
    const name = [this.chosen?.name, wanted.get("model"), byDefault, names[0]].find((each) => names.includes(each));
    fill(
      by("model"),
      names.map((each) => [each, each]),
      name,
    );
    if (name === undefined) {
      this.chosen = null;
      return;
    }
    const version =
      this.chosen?.name === name ? !this.chosen.default && this.chosen.version : Number(wanted.get("version"));
    this.#choose(name, version);
  }

  #pick(name, version) {
    this.#choose(name, version);
    const query = new URLSearchParams({ model: name, ...(!this.chosen.default && { version: this.chosen.version }) });
    history.replaceState(null, "", `?${query}`);
  }

  // Chooses `version` of the model `name`, or the one that answers by default.
  #choose(name, version) {
    const versions = this.#models.filter((each) => each.name === name).sort((a, b) => b.version - a.version);
    const entry =
      versions.find((each) => each.version === version) ?? versions.find((each) => each.default) ?? versions[0];
    const isNew = JSON.stringify(entry) !== JSON.stringify(this.chosen);
    this.chosen = entry;
    fill(
      by("version"),
      versions.map((each) => [String(each.version), nameOf(each)]),
      String(entry.version),
    );
    this.#onChange(isNew);
  }
}

function nameOf({ version, aliases, default: answers }) {
  const marks = [...aliases, ...(answers && !aliases.length ? ["default"] : [])];
  return [version, ...marks].join(" · ");
}

function fill(picker, options, value) {
  picker.replaceChildren(...options.map(([each, text]) => new Option(text, each)));
  if (value !== undefined) picker.value = value;
  picker.disabled = options.length === 0;
}
