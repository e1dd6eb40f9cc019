// The page at /docs: shows openapi.json to people, and lets them send requests.

import { offerColours } from "./colours.js";
import { by, make } from "./dom.js";
import { hideProblem, showError } from "./problem.js";
import { read, readFile } from "./service.js";
import { save } from "./snippets.js";
import { RequestForm } from "./try.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEEPEST = 12; // levels of a schema that are written out

let components = {};

const code = (text) => make("code", {}, text);
const block = (text) => make("pre", { tabindex: "0" }, code(text));

// What is between `backticks` as code.
function prose(text = "") {
  return text
    .trim()
    .split("`")
    .map((part, i) => (i % 2 ? code(part) : part));
}

// Schemas

function resolve(given) {
  const [, , kind, name] = given?.$ref?.split("/") ?? [];
  return name ? resolve(components[kind][name]) : (given ?? {});
}

// A schema as the JSON that it allows, with names of types in place of values.
function outline(given, indent = "", depth = 0) {
  const schema = resolve(given);
  if (depth > DEEPEST) return "…";
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices && !schema.properties) return choices.map((each) => outline(each, indent, depth + 1)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `[${outline(schema.items, indent, depth + 1)}, …]`;
  if (schema.properties) return outlineObject(schema, indent, depth);
  if (schema.type === "object")
    return schema.additionalProperties?.type ? `{any name: ${typeOf(schema.additionalProperties)}, …}` : "{…}";
  return typeOf(schema);
}

function outlineObject({ properties, required = [] }, indent, depth) {
  const inner = `${indent}  `;
  const lines = Object.entries(properties).map(([name, value]) => {
    const { description } = resolve(value);
    const remark = description ? `  // ${description}` : "";
    return `${inner}${JSON.stringify(name)}${required.includes(name) ? "" : "?"}: ${outline(value, inner, depth + 1)},${remark}`;
  });
  return `{\n${lines.join("\n")}\n${indent}}`;
}

function typeOf(given) {
  const schema = resolve(given);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.format === "binary") return "bytes";
  return schema.type ?? "anything";
}

// Operations

function content(described = {}) {
  const types = Object.entries(described);
  const isRaw = ([, { schema }]) => schema && typeOf(schema) === "bytes";
  const raw = types.filter(isRaw).flatMap(([type], i) => (i ? [", ", code(type)] : [code(type)]));
  return [
    raw.length ? make("p", {}, raw, ": bytes as they are") : "",
    types
      .filter((each) => !isRaw(each))
      .map(([type, { schema, example, examples = {} }]) => {
        const shown = [example, ...Object.values(examples).map((each) => each.value)].filter(
          (each) => each !== undefined,
        );
        return [
          make("p", {}, code(type)),
          schema ? block(outline(schema)) : "",
          shown.map((value) => [make("small", {}, "For example"), block(JSON.stringify(value, null, 2))]),
        ];
      }),
  ];
}

function parameters(listed) {
  if (!listed.length) return "";
  const rows = listed.map(({ name, in: place, schema, required, description }) =>
    make(
      "tr",
      {},
      make("td", {}, code(name), make("small", {}, `${place}, ${typeOf(schema)}${required ? ", required" : ""}`)),
      make("td", {}, prose(description)),
    ),
  );
  return [make("h3", {}, "Parameters"), make("table", {}, make("tbody", {}, rows))];
}

function responses(described) {
  const seen = new Map(); // refusals share one shape, which is written once
  const rows = Object.entries(described).map(([status, response]) => {
    const { description, content: body, headers } = response;
    const text = JSON.stringify(body ?? {});
    const first = seen.get(text);
    if (!first) seen.set(text, status);
    return make(
      "tr",
      {},
      make("td", {}, code(status), headers ? make("small", {}, `with ${Object.keys(headers).join(", ")}`) : ""),
      make(
        "td",
        {},
        prose(description),
        first && body ? make("small", {}, `The same shape as ${first}`) : content(body),
      ),
    );
  });
  return [make("h3", {}, "Answers"), make("table", {}, make("tbody", {}, rows))];
}

function operation(path, method, described, shared) {
  const { summary, description, parameters: own = [], requestBody, responses: answers } = described;
  const listed = [...shared, ...own].map(resolve);
  const label = `${method}${path.replaceAll(/[^\w]+/g, "-")}`;
  const details = make(
    "div",
    { class: "details" },
    description ? make("p", {}, prose(description)) : "",
    parameters(listed),
    requestBody
      ? [make("h3", {}, "Body"), make("p", {}, prose(requestBody.description)), content(requestBody.content)]
      : "",
    responses(answers),
    new RequestForm({ path, method, parameters: listed, content: requestBody?.content }).element,
  );
  return make(
    "details",
    { class: "operation", id: label },
    make(
      "summary",
      {},
      make("span", { class: "method", "data-method": method }, method.toUpperCase()),
      code(path),
      make("span", { class: "summary" }, summary ?? ""),
    ),
    details,
  );
}

/** @type {[string, (path: string) => boolean][]} */
const GROUPS = [
  ["Predictions", (path) => path === "/predict" || path === "/models"],
  ["The service", (path) => !path.startsWith("/v2") && path !== "/predict" && path !== "/models"],
  ["The Open Inference Protocol", (path) => path.startsWith("/v2")],
];

function show(document) {
  components = document.components ?? {};
  const paths = Object.entries(document.paths).sort(([a], [b]) => Number(b === "/predict") - Number(a === "/predict"));
  by("operations").replaceChildren(
    ...GROUPS.map(([title, belongs]) =>
      make(
        "section",
        { class: "group" },
        make("h2", {}, title),
        paths
          .filter(([path]) => belongs(path))
          .flatMap(([path, item]) =>
            METHODS.filter((method) => item[method]).map((method) =>
              operation(path, method, item[method], item.parameters ?? []),
            ),
          ),
      ),
    ),
  );
  by("about").replaceChildren(...prose(document.info.description));
  by("version").textContent = `${document.info.title} ${document.info.version} · OpenAPI ${document.openapi}`;
  openNamed();
}

// The operation that the address names after its '#', and else the first.
function openNamed() {
  const named = /** @type {any} */ (by(decodeURIComponent(location.hash.slice(1))) ?? by("post-predict"));
  if (!named) return;
  named.open = true;
  if (location.hash) named.scrollIntoView();
}

async function load() {
  hideProblem();
  try {
    show(await read("openapi.json"));
  } catch (error) {
    showError(error);
  }
}

by("save-openapi").addEventListener("click", async () => {
  try {
    save(await readFile("openapi.json"), "openapi.json");
  } catch (error) {
    showError(error);
  }
});
addEventListener("hashchange", openNamed);
offerColours();
load();
