// The box that says what went wrong.

import { by } from "./dom.js";
import { Refusal, Silence } from "./service.js";

export function showProblem(title, detail = "") {
  by("problem").hidden = false;
  by("problem-title").textContent = title;
  by("problem-detail").textContent = detail;
}

export function hideProblem() {
  by("problem").hidden = true;
}

export function showError(error) {
  if (error instanceof Refusal) return showProblem(`${error.status} ${error.title}`, error.detail);
  if (error instanceof Silence) return showProblem("Not reachable", "The service does not answer.");
  console.error(error);
  return showProblem("This page failed", error.message);
}
