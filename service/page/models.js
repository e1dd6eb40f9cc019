// The page of the models: versions side by side, and the card of one of them.

import { offerColours } from "./colours.js";
import { by, make } from "./dom.js";
import { render } from "./markdown.js";
import { hideProblem, showError } from "./problem.js";
import { Refusal, read, readFile } from "./service.js";

let listed = []; // served and absent versions alike
const pictures = []; // object URLs of the card that is shown

async function load() {
  hideProblem();
  try {
    const { models, absent, default: byDefault } = await read("models");
    listed = [...models, ...absent].sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
    const names = [...new Set(listed.map(({ name }) => name))].sort(
      (a, b) => Number(b === byDefault) - Number(a === byDefault),
    );
    by("versions").replaceChildren(
      ...names.map((name) =>
        section(
          name,
          name === byDefault,
          listed.filter((each) => each.name === name),
        ),
      ),
    );
    showNamed(listed.find((each) => each.name === byDefault) ?? listed[0]);
  } catch (error) {
    showError(error);
  }
}

function section(name, isDefault, versions) {
  const datasets = [...new Set(versions.flatMap((each) => accuracies(each).map(({ data }) => data)))];
  const header = ["Version", "State", ...datasets.map((data) => `On ${data}`)];
  return make(
    "section",
    { class: "model" },
    make("h2", {}, name, isDefault ? make("small", {}, " answers by default") : ""),
    make(
      "div",
      { class: "scroll", tabindex: "0" },
      make(
        "table",
        {},
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            header.map((text) => make("th", { scope: "col" }, text)),
          ),
        ),
        make(
          "tbody",
          {},
          versions.map((each) => row(each, datasets)),
        ),
      ),
    ),
  );
}

function row(entry, datasets) {
  const open = make("a", { href: `#${entry.name}@${entry.version}`, "data-version": keyOf(entry) }, `${entry.version}`);
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, open),
    make("td", {}, stateOf(entry)),
    datasets.map((data) => make("td", {}, accuracyOn(entry, data))),
  );
}

const keyOf = ({ name, version }) => `${name}@${version}`;

function stateOf({ state, reason, ready, aliases = [], default: answers }) {
  if (state === "loading") return "being loaded";
  if (state) return make("span", { class: "refused" }, `${state}: ${reason}`);
  const marks = [...aliases, ...(answers && !aliases.includes("production") ? ["in production"] : [])];
  return [...marks, ready ? "ready" : "no worker"].join(", ");
}

function accuracies({ metrics = [] }) {
  return metrics.filter(({ name }) => name === "accuracy");
}

function accuracyOn(entry, data) {
  const found = accuracies(entry).find((metric) => metric.data === data);
  return found
    ? [`${(100 * found.value).toFixed(2)} %`, make("small", {}, `n = ${found.n.toLocaleString("en")}`)]
    : "–";
}

// Shows the card of the version that the address names after its '#', else of `fallback`.
async function showNamed(fallback) {
  const named = decodeURIComponent(location.hash.slice(1));
  const entry = listed.find((each) => keyOf(each) === named) ?? fallback;
  if (!entry) return;
  for (const link of document.querySelectorAll("[data-version]")) {
    if (link.getAttribute("data-version") === keyOf(entry)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  await showCard(entry);
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

addEventListener("hashchange", () => showNamed(listed[0]).catch(showError));
offerColours();
load();
