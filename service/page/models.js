// The page of the models: versions side by side, and the card of one of them.

import { offerColours } from "./colours.js";
import { by, make } from "./dom.js";
import { apiKey } from "./key.js";
import { render } from "./markdown.js";
import { hideProblem, showError } from "./problem.js";
import { Refusal, read, readFile, write } from "./service.js";

const LOOK_MS = 500; // between two looks whether a promoted version is served, of at most LOOKS
const LOOKS = 60;

let listed = []; // served and absent versions alike
let byDefault = null; // the name of the model that answers when none is named
const pictures = []; // object URLs of the card that is shown

async function load() {
  hideProblem();
  try {
    show(await read("models"));
    await showNamed();
  } catch (error) {
    showError(error);
  }
}

function show({ models, absent, default: name }) {
  byDefault = name;
  listed = [...models, ...absent].sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
  const names = [...new Set(listed.map((each) => each.name))].sort(
    (a, b) => Number(b === byDefault) - Number(a === byDefault),
  );
  by("versions").replaceChildren(...names.map(section));
}

function section(name) {
  const versions = listed.filter((each) => each.name === name);
  return make(
    "section",
    { class: "model" },
    make("h2", {}, name, name === byDefault ? make("small", {}, " answers by default") : ""),
    make(
      "div",
      { class: "scroll", tabindex: "0" },
      make(
        "table",
        {},
        make("thead", {}, line("Version", versions.map(linkTo), "col")),
        make("tbody", {}, line("State", versions.map(stateOf)), measured(versions)),
      ),
    ),
    production(name, versions),
  );
}

// A row of the table: what it is, and the same of every version.
function line(title, cells, scope = "") {
  return make(
    "tr",
    {},
    make("th", { scope: scope || "row" }, title),
    cells.map((cell) => make(scope ? "th" : "td", scope ? { scope } : {}, cell)),
  );
}

function linkTo(entry) {
  if (!entry.version) return "–"; // other files of the model
  return make("a", { href: `#${keyOf(entry)}`, "data-version": keyOf(entry) }, `${entry.version}`);
}

const keyOf = ({ name, version }) => `${name}@${version}`;

function stateOf({ state, reason, ready, aliases = [], default: answers }) {
  if (state === "loading") return "being loaded";
  if (state) return make("span", { class: "refused" }, `${state}: ${reason}`);
  const marks = [...aliases, ...(answers && !aliases.includes("production") ? ["in production"] : [])];
  return [...marks, ready ? "ready" : "no worker"].join(", ");
}

const MEASURES = {
  accuracy: { title: "Right", write: (value) => `${(100 * value).toFixed(2)} %` },
  ece: { title: "Calibration error", write: (value) => `${(100 * value).toFixed(2)} %` },
  nll: { title: "Log loss", write: (value) => value.toFixed(4) },
};

// A row for the accuracy on every data set that one of the versions was measured on, and for all else on the first.
function measured(versions) {
  const metrics = versions.flatMap((each) => each.metrics ?? []);
  return Object.entries(MEASURES).flatMap(([measure, { title, write }]) => {
    const sets = [...new Set(metrics.filter(({ name }) => name === measure).map(({ data }) => data))];
    return (measure === "accuracy" ? sets : sets.slice(0, 1)).map((data) => {
      const found = versions.map((each) => each.metrics?.find((one) => one.name === measure && one.data === data));
      const count = found.find(Boolean).n.toLocaleString("en");
      const cells = found.map((one) => (one ? write(one.value) : "–"));
      return line([title, make("small", {}, `${data}, n = ${count}`)], cells);
    });
  });
}

// What is in production

// A form that promotes a version and rolls back; nothing where the service asks for no keys, for then nobody may.
function production(name, versions) {
  if (!apiKey()) return "";
  const current = versions.find((each) => each.default);
  const field = make("input", { type: "number", min: "1", step: "1", required: "", "aria-label": "Version" });
  field.value = String(
    versions.find((each) => each.version && each !== current && each.state !== "refused")?.version ?? "",
  );
  const back = make("button", { type: "button" }, "Roll back");
  const form = make(
    "form",
    { class: "tools", "aria-label": `Production of ${name}` },
    make("label", {}, "Version ", field),
    make("button", { type: "submit" }, "Promote"),
    back,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(name, "promote", { version: field.valueAsNumber });
  });
  back.addEventListener("click", () => change(name, "rollback", {}));
  return form;
}

async function change(name, what, body) {
  hideProblem();
  by("changed").textContent = "";
  for (const button of document.querySelectorAll(".model button")) button.setAttribute("disabled", "");
  try {
    const { production: version } = await write(`models/${encodeURIComponent(name)}/${what}`, body);
    by("changed").textContent = `${name} ${version} is in production.`;
    await waitFor(name, version);
  } catch (error) {
    showError(error);
  }
  for (const button of document.querySelectorAll(".model button")) button.removeAttribute("disabled");
}

// Shows what is served until a version answers: the workers load it first.
async function waitFor(name, version) {
  for (let look = 0; look < LOOKS; look++) {
    show(await read("models"));
    markShown();
    const found = listed.find((each) => each.name === name && each.version === version);
    if (found?.default || found?.state === "refused") return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

// The card

// The version that the address names after its '#', else the first that answers.
function named() {
  const key = decodeURIComponent(location.hash.slice(1));
  const cards = listed.filter(({ version }) => version);
  return cards.find((each) => keyOf(each) === key) ?? cards.find((each) => each.name === byDefault) ?? cards[0];
}

function markShown() {
  const entry = named();
  for (const link of document.querySelectorAll("[data-version]")) {
    if (entry && link.getAttribute("data-version") === keyOf(entry)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

async function showNamed() {
  markShown();
  const entry = named();
  if (entry) await showCard(entry);
}

async function showCard(entry) {
  const folder = `models/${encodeURIComponent(entry.name)}/${entry.version}`;
  try {
    const text = await (await readFile(`${folder}/card.md`)).text();
    for (const url of pictures.splice(0)) URL.revokeObjectURL(url);
    by("card").replaceChildren(...render(text, (name, alt) => picture(`${folder}/${name}`, alt)));
  } catch (error) {
    if (!(error instanceof Refusal && error.status === 404)) throw error;
    by("card").replaceChildren(make("p", {}, `${keyOf(entry)} was published without a card.`));
  }
}

// A picture of the card. It is fetched by hand, for an image element cannot send an API key.
function picture(path, alt) {
  const image = make("img", { alt });
  readFile(path).then(
    (blob) => {
      image.src = URL.createObjectURL(blob);
      pictures.push(image.src);
    },
    () => image.replaceWith(make("small", {}, `${alt}: not in the registry`)),
  );
  return image;
}

addEventListener("hashchange", () => showNamed().catch(showError));
offerColours();
load();
