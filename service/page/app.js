// The page: asks the chosen model about what is drawn, shown or typed, and shows its answer.

import { AnswerView, sizeOf } from "./answer.js";
import { hasCamera } from "./camera.js";
import { offerColours } from "./colours.js";
import { Connection } from "./connection.js";
import { by } from "./dom.js";
import { Examples } from "./examples.js";
import { columnsOf, FeatureForm } from "./features.js";
import { FileTable } from "./files.js";
import { LatestOnly } from "./latest.js";
import { Picker } from "./picker.js";
import { prepared, takeFiles, typeOf } from "./pictures.js";
import { hideProblem, showError, showProblem } from "./problem.js";
import { predict, Refusal, read, Silence } from "./service.js";
import { Snippets } from "./snippets.js";
import { Stage } from "./stage.js";
import { showState } from "./state.js";

const PAUSE_MS = 40; // between two requests while drawing

const view = new AnswerView();
const snippets = new Snippets();
const asking = new LatestOnly(ask, PAUSE_MS);
const features = new FeatureForm(() => askAgain());
const picker = new Picker(showChosen);
const stage = new Stage((isOther) => (isOther ? askAgain() : asking.want()));
const examples = new Examples((strokes) => stage.draw(strokes));
const files = new FileTable({ ask: askAboutFile, onOpen: (file) => stage.showPicture(file), onClose: askAgain });
const connection = new Connection({
  onState: (state, seconds) => {
    showState(state, seconds);
    by("answer").dataset.stale = String(state === "lost");
  },
  onReady: refresh,
});

let current = new AbortController(); // ends the request whose answer is no longer wanted

// Asking

function isOfInk({ input: spec }) {
  return spec.kind === "image" && spec.style === "mnist";
}

function takesFeatures() {
  return picker.chosen?.input.kind === "features";
}

async function input() {
  if (!takesFeatures()) return stage.input();
  const values = features.values();
  return values && { body: JSON.stringify({ features: [values] }), type: "application/json", name: "" };
}

// Of a file in the table one answer is asked for, of what is on the stage one for each sign.
function pathOf({ name, version, default: isDefault }, splits = false) {
  const query = {
    model: name,
    ...(!isDefault && { version }),
    probabilities: "true",
    show_input: "true",
    ...(splits && { split: "true" }),
  };
  return `predict?${new URLSearchParams(query)}`;
}

async function ask() {
  const { chosen } = picker;
  if (!chosen || !connection.ready || files.isOpen) return; // once it is ready, it is asked again
  const { signal } = current;
  try {
    const given = await input();
    if (signal.aborted) return;
    if (!given) {
      hideProblem();
      view.clear();
      snippets.show(null);
      return;
    }
    const request = { path: pathOf(chosen, isOfInk(chosen)), ...given };
    const answer = await predict({ ...request, signal });
    if (signal.aborted) return;
    hideProblem();
    view.show(answer);
    snippets.show(request);
    if (answer.version !== chosen.version) refresh(); // another version has been published since
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

async function askAboutFile(file, signal) {
  const body = await prepared(file);
  return predict({ path: pathOf(picker.chosen), body, type: typeOf(body), signal });
}

function failed(error) {
  if (error instanceof Silence) {
    connection.fail("lost");
  } else if (error instanceof Refusal && error.passes) {
    connection.fail(error.status === 429 ? "busy" : "starting", error.retrySeconds);
  } else {
    view.clear("No answer");
    snippets.show(null);
    showError(error);
    if (error.status === 404) refresh(false);
  }
}

// Drops the request that is under way, if any, and asks again.
function askAgain() {
  current.abort();
  current = new AbortController();
  asking.want();
}

// The model

async function refresh(again = true) {
  try {
    picker.update(await read("models"));
    if (!picker.chosen) {
      view.clear("No model is served");
      by("about").textContent = "The registry holds no model that can be served.";
    } else if (again) {
      askAgain();
    }
  } catch (error) {
    failed(error);
  }
}

function showChosen(isNew) {
  if (!isNew) return;
  const { input: spec, classes } = picker.chosen;
  const isDrawable = isOfInk(picker.chosen);
  const isDigits = classes.length === 10 && classes.every((label, i) => label === String(i));
  if (takesFeatures()) {
    by("title").textContent = "Enter the features";
    by("lead").textContent = "The network answers with every number.";
  } else if (isDrawable) {
    by("title").textContent = `Draw a ${isDigits ? "digit" : "sign"}`;
    by("lead").textContent = "The network answers with every stroke, for each sign that stands by itself.";
  } else {
    by("title").textContent = "Show a picture";
    by("lead").textContent = `The network looks at ${sizeOf(spec)} pixels of it.`;
  }
  by("hint").textContent = isDrawable
    ? "Draw here,\nor drop, paste or open pictures"
    : "Drop, paste or open pictures,\nor draw here";
  by("features").hidden = !takesFeatures();
  by("stage").hidden = by("undo").hidden = by("open").hidden = takesFeatures();
  by("camera").hidden = takesFeatures() || !hasCamera;
  by("clear").disabled &&= !takesFeatures();
  if (takesFeatures()) {
    stage.stopCamera();
    files.close();
    features.show(columnsOf(spec));
  }
  examples.show(isDrawable && isDigits);
  by("about").textContent = describe(picker.chosen);
  view.setClasses(classes, spec);
  hideProblem();
  if (files.isOpen) files.restart();
  else askAgain();
}

function describe({ name, version, digest, metrics = [] }) {
  const accuracy = metrics.find((metric) => metric.name === "accuracy");
  const right =
    accuracy &&
    `${(100 * accuracy.value).toFixed(2)} % right on ${accuracy.data} (n = ${accuracy.n.toLocaleString("en")})`;
  return [`${name} ${version}`, right, `sha256 ${digest.slice(0, 12)}`].filter(Boolean).join(" · ");
}

// Files

function take(given) {
  if (takesFeatures()) return showProblem("This model takes numbers", "Choose another model to show it pictures.");
  if (given.length === 1 && !files.isOpen) return stage.showPicture(given[0]);
  return files.open(given);
}

by("clear").addEventListener("click", () => (takesFeatures() ? features.reset() : stage.clear()));
by("open").addEventListener("click", () => by("chooser").click());
by("chooser").addEventListener("change", (event) => {
  if (event.target.files.length) take([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
takeFiles({
  onFiles: take,
  onNothing: () => showProblem("No picture", "A file must be dropped. Given: something else."),
});

offerColours(() => stage.pad.redraw());
connection.check();
