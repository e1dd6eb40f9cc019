// The request that was just made, as code for a shell, Python and JavaScript.

import { by } from "./dom.js";
import { apiKey } from "./key.js";
import { addressOf } from "./service.js";

const INLINE_BYTES = 8192; // what has no file name and is not larger stands in the code itself, as base64

const WRITERS = { curl, python, javascript };

export class Snippets {
  #language = "curl";
  #request = null;

  constructor() {
    for (const language of Object.keys(WRITERS)) {
      by(`as-${language}`).addEventListener("click", () => {
        this.#language = language;
        this.#write();
      });
    }
    by("code").addEventListener("toggle", () => this.#write());
    by("copy").addEventListener("click", () => this.#copy());
    by("save-input").addEventListener("click", () => save(this.#request.body, nameOf(this.#request)));
    this.#write();
  }

  // Shows `request`: {path, body, type, name}, or none.
  show(request) {
    this.#request = request;
    this.#write();
  }

  async #write() {
    const request = this.#request;
    for (const language of Object.keys(WRITERS)) {
      by(`as-${language}`).setAttribute("aria-pressed", String(language === this.#language));
    }
    by("copied").textContent = "";
    by("copy").disabled = !request;
    by("save-input").hidden = !request || typeof request.body === "string";
    if (!by("code").open) return;
    const text = request ? WRITERS[this.#language](await described(request)) : "Ask the model something first.";
    if (request === this.#request) by("command").textContent = text;
  }

  async #copy() {
    const text = by("command").textContent;
    try {
      await navigator.clipboard.writeText(text);
      by("copied").textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(by("command")); // only HTTPS and localhost may write to the clipboard
      by("copied").textContent = "Selected: press Ctrl+C to copy";
    }
  }
}

// Offers `content` as a download called `name`.
export function save(content, name) {
  const url = URL.createObjectURL(content);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

function nameOf({ name, type }) {
  return name || `picture.${type.split("/")[1]}`;
}

// What the writers need: the address, the content type, and one of text, base64 and file.
async function described(request) {
  const { path, body, type, name } = request;
  const shared = { url: addressOf(path), type, hasKey: Boolean(apiKey()) };
  if (typeof body === "string") return { ...shared, text: body };
  if (name || body.size > INLINE_BYTES) return { ...shared, file: nameOf(request) };
  const bytes = new Uint8Array(await body.arrayBuffer());
  return { ...shared, base64: btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")) };
}

// Quotes a word for a POSIX shell.
function quoted(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function curl({ url, type, hasKey, text, base64, file }) {
  const key = hasKey ? ' -H "authorization: Bearer $ARGMAX_API_KEY"' : "";
  const request = `curl -H ${quoted(`content-type: ${type}`)}${key}`;
  if (text !== undefined) return `${request} --data-binary ${quoted(text)} ${quoted(url)}`;
  if (file) return `${request} --data-binary ${quoted(`@${file}`)} ${quoted(url)}`;
  return `echo ${base64} | base64 --decode |\n  ${request} --data-binary @- ${quoted(url)}`;
}

// JSON's literals are Python's, too, for what is written here.
const literal = JSON.stringify;

function python({ url, type, hasKey, text, base64, file }) {
  const imports = [base64 && "base64", "json", hasKey && "os", "urllib.request"].filter(Boolean);
  const body =
    text !== undefined
      ? `${literal(text)}.encode()`
      : file
        ? `open(${literal(file)}, "rb").read()`
        : `base64.b64decode(${literal(base64)})`;
  const key = hasKey ? `, "authorization": "Bearer " + os.environ["ARGMAX_API_KEY"]` : "";
  return [
    ...imports.map((name) => `import ${name}`),
    "",
    `body = ${body}`,
    `headers = {"content-type": ${literal(type)}${key}}`,
    `request = urllib.request.Request(${literal(url)}, body, headers)`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}

function javascript({ url, type, hasKey, text, base64, file }) {
  const body =
    text !== undefined
      ? literal(text)
      : file
        ? `await readFile(${literal(file)})`
        : `Uint8Array.from(atob(${literal(base64)}), (letter) => letter.charCodeAt(0))`;
  const key = hasKey ? ", authorization: `Bearer ${process.env.ARGMAX_API_KEY}`" : "";
  return [
    ...(file ? ['import { readFile } from "node:fs/promises";', ""] : []),
    `const body = ${body};`,
    `const headers = { "content-type": ${literal(type)}${key} };`,
    `const response = await fetch(${literal(url)}, { method: "POST", headers, body });`,
    "console.log(JSON.stringify(await response.json()));",
  ].join("\n");
}
