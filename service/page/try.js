// A form for each operation of the API, which sends a request and shows what comes back.

import { make } from "./dom.js";
import { call, Silence } from "./service.js";

const SHOWN_HEADERS = ["content-type", "server-timing", "x-model", "x-model-version", "x-request-id", "retry-after"];
const FORM = "multipart/form-data";

export class RequestForm {
  element;
  #path;
  #method;
  #parameters;
  #type = null;
  #text = null;
  #files = null;
  #result = make("div", { class: "result", role: "status" });

  constructor({ path, method, parameters, content }) {
    this.#path = path;
    this.#method = method;
    this.#parameters = parameters.map((each) => ({ ...each, field: field(each) }));
    this.element = make(
      "form",
      { class: "try" },
      make("h3", {}, "Try it"),
      make("div", { class: "fields" }, this.#parameters.map(labelled)),
      content ? this.#body(content) : "",
      make("div", { class: "tools" }, make("button", { type: "submit", class: "strong" }, "Send")),
      this.#result,
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
  }

  #body(content) {
    const types = Object.keys(content);
    this.#type = make(
      "select",
      {},
      types.map((type) => make("option", {}, type)),
    );
    this.#type.value = types.includes("application/json") ? "application/json" : types[0];
    this.#text = make("textarea", { rows: "6", spellcheck: "false", "aria-label": "Body" });
    this.#files = make("input", { type: "file", multiple: "", "aria-label": "File to send" });
    const show = () => {
      const isText = this.#type.value.endsWith("json");
      const { example, examples = {} } = content[this.#type.value];
      const shown = example ?? Object.values(examples)[0]?.value;
      this.#text.hidden = !isText;
      this.#files.hidden = isText;
      this.#text.value = isText && shown ? JSON.stringify(shown, null, 2) : "";
    };
    this.#type.addEventListener("change", show);
    show();
    return make("div", { class: "body" }, make("label", {}, "Body", this.#type), this.#text, this.#files);
  }

  /** @returns {{url: string, options: RequestInit}} */
  #request() {
    let path = this.#path;
    const query = new URLSearchParams();
    /** @type {Record<string, string>} */
    const headers = {};
    for (const { name, in: place, field } of this.#parameters) {
      if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value));
      else if (field.value && place === "query") query.set(name, field.value);
      else if (field.value && place === "header") headers[name] = field.value;
    }
    const url = `${path.slice(1)}${query.size ? `?${query}` : ""}`;
    const method = this.#method.toUpperCase();
    if (!this.#type) return { url, options: { method, headers } };
    const type = this.#type.value;
    if (type === FORM) {
      const body = new FormData();
      for (const file of this.#files.files) body.append("file", file);
      return { url, options: { method, headers, body } };
    }
    const body = type.endsWith("json") ? this.#text.value : (this.#files.files[0] ?? "");
    return { url, options: { method, headers: { ...headers, "content-type": type }, body } };
  }

  async #send() {
    const { url, options } = this.#request();
    this.#result.replaceChildren("…");
    try {
      const started = performance.now();
      const { response, blob, text } = await call(url, options);
      this.#show(`${options.method} /${url}`, response, performance.now() - started, await readable(blob, text));
    } catch (/** @type {any} */ error) {
      this.#result.replaceChildren(error instanceof Silence ? "The service does not answer." : error.message);
    }
  }

  #show(line, response, milliseconds, body) {
    const headers = SHOWN_HEADERS.filter((name) => response.headers.has(name));
    this.#result.replaceChildren(
      make("p", {}, make("code", {}, line)),
      make(
        "p",
        { class: "status", "data-ok": String(response.ok) },
        make("b", {}, `${response.status} ${response.statusText}`),
        ` in ${milliseconds.toFixed(1)} ms`,
      ),
      make("small", {}, headers.map((name) => `${name}: ${response.headers.get(name)}`).join(" · ")),
      body,
    );
  }
}

function labelled({ name, required, field }) {
  return make("label", {}, `${name}${required ? "" : " (optional)"}`, field);
}

/** @param {any} parameter */
function field({ name, in: place, required, schema = {} }) {
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  if (choices)
    return make(
      "select",
      {},
      ["", ...choices].map((value) => make("option", { value }, value || "–")),
    );
  const type = schema.type === "integer" ? "number" : "text";
  const element = make("input", { type, ...(required && { required: "" }), autocomplete: "off", spellcheck: "false" });
  if (place === "path" && name === "model") element.placeholder = "mnist";
  return element;
}

// A picture as a picture, JSON with line breaks, and other text as it is.
async function readable(blob, text) {
  if (blob.type.startsWith("image/")) {
    const image = make("img", { alt: "The answer" });
    image.src = URL.createObjectURL(blob);
    return image;
  }
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Not JSON: shown as it is.
  }
  return make("pre", { tabindex: "0" }, make("code", {}, shown));
}
