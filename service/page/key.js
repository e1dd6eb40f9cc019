// The API key: asked for in a dialog, and kept until the tab is closed.

import { make } from "./dom.js";

const STORED = "argmax-key";

let current = stored();
let asking = null; // the dialog's promise while it is open

export function apiKey() {
  return current;
}

// Asks for a key. All callers that wait share one dialog. Gives "" when it is closed without one.
export function askForKey(problem) {
  asking ??= ask(problem).finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(problem) {
  const field = make("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: "" });
  const cancel = make("button", { type: "button" }, "Cancel");
  const form = make(
    "form",
    {},
    make("h2", { id: "key-title" }, "This service asks for an API key"),
    problem ? make("p", { class: "key-problem", role: "alert" }, problem) : "",
    make("label", {}, "API key", field),
    make("p", { class: "note" }, "It stays in this tab until you close it."),
    make("div", { class: "tools" }, make("button", { type: "submit", class: "strong" }, "Use"), cancel),
  );
  const dialog = make("dialog", { class: "key", id: "key-dialog", "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  const given = await new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      resolve(field.value.trim());
    });
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => resolve(""));
    dialog.showModal();
    field.focus();
  });
  dialog.remove();
  if (given) keep(given);
  return given;
}

function keep(key) {
  current = key;
  try {
    sessionStorage.setItem(STORED, key);
  } catch {
    // Storage may be forbidden; this page then remembers it, and the next one asks again.
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}
