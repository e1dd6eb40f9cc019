// The page: puts the pad, the picture, the camera and the numbers on one side of the service, the answer on the other.

import { AnswerView, sizeOf } from "./answer.js";
import { Camera, hasCamera } from "./camera.js";
import { Pad } from "./pad.js";
import { Connection, LatestOnly, Refusal, Silence, predict, read, useKey } from "./service.js";

const PAUSE_MS = 40; // between two requests while drawing
const TAKEN = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const SHRINK_BYTES = 6 * 2 ** 20; // a larger file is made smaller here: no network looks at more than a part of it
const SHRUNK_PIXELS = 2048;

const by = (id) => document.getElementById(id);

const view = new AnswerView();
const pad = new Pad(by("pad"), by("sheet"), drawn);
const camera = new Camera(by("video"));
const asking = new LatestOnly(ask, PAUSE_MS);
const connection = new Connection({ onState: showState, onReady: refresh });

let models = [];
let chosen = null; // an entry of `models`
let picture = null; // the file that is shown in place of the pad
let current = new AbortController(); // ends the request whose answer is no longer wanted

// Asking

// What the model is to look at: {body, type}, or null when there is nothing.
async function input() {
  if (chosen.input.kind === "features") return features();
  if (picture) return { body: picture, type: TAKEN.includes(picture.type) ? picture.type : "application/octet-stream" };
  return pad.blank ? null : { body: await pad.png(), type: "image/png" };
}

async function ask() {
  if (!chosen || !connection.ready) return; // once it is ready, it is asked anew
  const { signal } = current;
  try {
    const given = await input();
    if (!given) return signal.aborted ? undefined : view.clear();
    const version = chosen.default ? "" : String(chosen.version);
    const answer = await predict({ model: chosen.name, version, ...given, signal });
    if (signal.aborted) return;
    showProblem(null);
    view.show(answer);
    if (answer.version !== chosen.version) refresh(); // another version has been published since
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function failed(error) {
  if (error instanceof Silence) {
    connection.fail("lost");
  } else if (error instanceof Refusal && error.passes) {
    connection.fail(error.status === 429 ? "busy" : "starting", error.retrySeconds);
  } else if (error instanceof Refusal) {
    view.clear("No answer");
    showProblem(`${error.status} ${error.title}`, error.detail);
    if (error.status === 401 || error.status === 403) askForKey();
    if (error.status === 404) refresh(false);
  } else {
    showProblem("This page failed", error.message);
    console.error(error);
  }
}

function askForKey() {
  if (!by("key-form").hidden) return;
  by("key-form").hidden = false;
  by("key").focus();
}

// Forget the request that is under way, if any, and ask anew.
function askAnew() {
  current.abort();
  current = new AbortController();
  asking.want();
}

function drawn() {
  showTools();
  if (pad.blank) askAnew();
  else asking.want();
}

// Models

async function refresh(again = true) {
  try {
    const listed = await read("models");
    models = listed.models;
    showModels(listed.default);
    if (again && chosen) askAnew();
  } catch (error) {
    failed(error);
  }
}

function showModels(byDefault) {
  const wanted = new URLSearchParams(location.search);
  const names = [...new Set(models.map(({ name }) => name))];
  const name = [chosen?.name, wanted.get("model"), byDefault, names[0]].find((each) => names.includes(each));
  fillPicker(by("model"), names.map((each) => [each, each]), name);
  if (name === undefined) {
    chosen = null;
    view.clear("No model is served");
    by("about").textContent = "The registry holds no model that can be served.";
    return;
  }
  const version = chosen?.name === name ? !chosen.default && chosen.version : Number(wanted.get("version"));
  choose(name, version);
}

// Show `version` of the model `name`, or the one that answers by default.
function choose(name, version) {
  const versions = models.filter((each) => each.name === name).sort((a, b) => b.version - a.version);
  const entry = versions.find((each) => each.version === version) ?? versions.find((each) => each.default) ?? versions[0];
  const changed = JSON.stringify(entry) !== JSON.stringify(chosen);
  chosen = entry;
  fillPicker(by("version"), versions.map((each) => [String(each.version), nameOf(each)]), String(entry.version));
  if (changed) showChosen();
}

function nameOf({ version, aliases, default: answers }) {
  const marks = [...aliases, ...(answers && !aliases.length ? ["default"] : [])];
  return [version, ...marks].join(" · ");
}

function fillPicker(picker, options, value) {
  picker.replaceChildren(...options.map(([each, text]) => new Option(text, each)));
  if (value !== undefined) picker.value = value;
  picker.disabled = options.length === 0;
}

function showChosen() {
  const { input: spec, classes, metrics = [], name, version, digest } = chosen;
  const digits = classes.length === 10 && classes.every((label, i) => label === String(i));
  const takesFeatures = spec.kind === "features";
  const accuracy = metrics.find((metric) => metric.name === "accuracy");
  by("title").textContent = takesFeatures ? "Enter features" : drawable() ? `Draw a ${digits ? "digit" : "sign"}` : "Show a picture";
  by("lead").textContent = takesFeatures ? "The network answers with every number." :
    drawable() ? "The network answers with every stroke." : `The network looks at ${sizeOf(spec)} pixels of it.`;
  by("hint").textContent = drawable() ? "Draw here,\nor drop, paste or open a picture" : "Drop, paste or open a picture,\nor draw here";
  by("about").textContent = [
    `${name} ${version}`,
    accuracy && `${(100 * accuracy.value).toFixed(2)} % right on ${accuracy.data} (n = ${accuracy.n.toLocaleString("en")})`,
    `sha256 ${digest.slice(0, 12)}`,
  ].filter(Boolean).join(" · ");
  by("command").textContent = command();
  by("features").hidden = !takesFeatures;
  by("stage").hidden = takesFeatures;
  if (takesFeatures) {
    stopCamera();
    showFeatures(spec.shape[0]);
  }
  view.setClasses(classes, spec);
  showProblem(null);
  showTools();
}

function drawable() {
  return chosen.input.kind === "image" && chosen.input.style === "mnist";
}

function command() {
  const query = new URLSearchParams({ model: chosen.name, ...(!chosen.default && { version: chosen.version }) });
  const url = `${new URL("predict", location.href)}?${query}`;
  if (chosen.input.kind === "features") {
    const zeros = Array(Math.min(chosen.input.shape[0], 8)).fill(0).join(", ");
    return `curl -H 'content-type: application/json' -d '{"features": [[${zeros}]]}' '${url}'`;
  }
  return `curl -H 'content-type: image/png' --data-binary @picture.png '${url}'`;
}

// Numbers in place of a picture

function showFeatures(count) {
  const form = by("features");
  if (form.elements.length === count) return;
  form.replaceChildren(...Array.from({ length: count }, (_, i) => {
    const label = document.createElement("label");
    label.append(`Feature ${i + 1}`, Object.assign(document.createElement("input"), { type: "number", step: "any", value: "0" }));
    return label;
  }));
}

function features() {
  const fields = [...by("features").elements];
  for (const field of fields) field.setAttribute("aria-invalid", String(!Number.isFinite(field.valueAsNumber)));
  const values = fields.map((field) => field.valueAsNumber);
  if (!values.every(Number.isFinite)) return null;
  return { body: JSON.stringify({ features: [values] }), type: "application/json" };
}

// A row of a table, pasted into one field, fills those that follow.
function pasteNumbers(event) {
  const values = event.clipboardData.getData("text").split(/[\s,;]+/).filter(Boolean);
  if (values.length < 2 || !values.every((value) => Number.isFinite(Number(value)))) return;
  event.preventDefault();
  const fields = [...by("features").elements];
  const first = Math.max(0, fields.indexOf(event.target));
  values.forEach((value, i) => fields[first + i] && (fields[first + i].value = value));
  drawn();
}

// Pictures

async function showPicture(file) {
  if (chosen?.input.kind === "features") return showProblem("This model takes numbers", "Choose another to show a picture.");
  stopCamera();
  picture = file.size > SHRINK_BYTES ? await shrunk(file) : file;
  const image = by("picture");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(picture);
  image.alt = file.name ? `Your picture, ${file.name}` : "Your picture";
  by("file").textContent = file.name || "The picture";
  show("picture");
  askAnew();
}

async function shrunk(file) {
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, SHRUNK_PIXELS / Math.max(whole.width, whole.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(whole.width * scale));
    canvas.height = Math.max(1, Math.round(whole.height * scale));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    return (await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92))) ?? file;
  } catch {
    return file; // no picture that this browser knows: the service says what is wrong with it
  }
}

function removePicture() {
  picture = null;
  show("pad");
  askAnew();
}

function openFirst(transfer) {
  const file = transfer?.files?.[0];
  if (file) showPicture(file);
  return Boolean(file);
}

// The camera

async function startCamera() {
  try {
    await camera.start();
    show("video");
    by("shoot").focus();
  } catch (error) {
    camera.stop();
    showProblem("No camera", error.name === "NotAllowedError" ? "The browser was told not to use it." : error.message);
  }
}

function stopCamera() {
  if (by("stage").dataset.shows !== "video") return;
  camera.stop();
  show(picture ? "picture" : "pad");
}

async function takePicture() {
  const shot = await camera.shoot();
  await showPicture(shot);
  by("clear").focus();
}

// What is shown

function show(what) {
  by("stage").dataset.shows = what;
  by("picture").hidden = what !== "picture";
  by("file").hidden = true;
  by("video").hidden = what !== "video";
  by("tools").hidden = what === "video";
  by("camera-tools").hidden = what !== "video";
  showProblem(null);
  showTools();
}

function showTools() {
  const takesFeatures = chosen?.input.kind === "features";
  by("undo").hidden = by("open").hidden = takesFeatures;
  by("camera").hidden = takesFeatures || !hasCamera;
  by("undo").disabled = Boolean(picture) || !pad.canUndo;
  by("clear").disabled = !takesFeatures && !picture && pad.blank;
}

function showProblem(title, detail) {
  by("problem").hidden = title === null;
  by("problem-title").textContent = title ?? "";
  by("problem-detail").textContent = detail ?? "";
  if (title === null) by("key-form").hidden = true;
}

const STATES = { ready: "Ready", starting: "Starting", busy: "Busy", lost: "Not reachable" };
let countdown = 0;

function showState(state, seconds) {
  clearInterval(countdown);
  by("state").dataset.state = state;
  by("answer").dataset.stale = String(state === "lost");
  if (by("state-text").textContent !== STATES[state]) by("state-text").textContent = STATES[state];
  const until = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    by("state-more").textContent = state !== "ready" && left > 1 ? `next try in ${left} s` : "";
  };
  tick();
  if (seconds > 1) countdown = setInterval(tick, 250);
}

// Colours

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : systemIsDark.matches;
}

function showTheme() {
  by("theme").setAttribute("aria-pressed", String(isDark()));
  pad.redraw();
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("argmax-theme", theme);
  } catch {
    // Not remembered, then.
  }
  showTheme();
}

// Wires

function rememberChoice() {
  const query = new URLSearchParams({ model: chosen.name, ...(!chosen.default && { version: chosen.version }) });
  history.replaceState(null, "", `?${query}`);
}

by("model").addEventListener("change", (event) => {
  choose(event.target.value);
  rememberChoice();
  askAnew();
});
by("version").addEventListener("change", (event) => {
  choose(chosen.name, Number(event.target.value));
  rememberChoice();
  askAnew();
});
by("undo").addEventListener("click", () => pad.undo());
by("clear").addEventListener("click", () => {
  if (chosen?.input.kind === "features") {
    by("features").reset();
    askAnew();
  } else if (picture) {
    removePicture();
  } else {
    pad.clear();
  }
});
by("open").addEventListener("click", () => by("chooser").click());
by("chooser").addEventListener("change", (event) => {
  openFirst(event.target);
  event.target.value = ""; // so that the same file can be chosen again
});
by("camera").addEventListener("click", startCamera);
by("shoot").addEventListener("click", takePicture);
by("stop").addEventListener("click", () => {
  stopCamera();
  by("camera").focus();
});
by("picture").addEventListener("error", () => {
  if (!picture) return;
  by("picture").hidden = true;
  by("file").hidden = false;
});
by("features").addEventListener("input", drawn);
by("features").addEventListener("paste", pasteNumbers);
by("features").addEventListener("submit", (event) => event.preventDefault());
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(by("key").value.trim());
  refresh();
});
by("theme").addEventListener("click", switchTheme);
systemIsDark.addEventListener("change", showTheme);

document.addEventListener("paste", (event) => {
  if (openFirst(event.clipboardData)) event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const undoes = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  if (!undoes || picture || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  pad.undo();
});

let dragDepth = 0;
for (const [name, change] of [["dragenter", 1], ["dragleave", -1]]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    dragDepth += change;
    document.body.classList.toggle("dragging", dragDepth > 0);
  });
}
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragDepth = 0;
  document.body.classList.remove("dragging");
  if (!openFirst(event.dataTransfer)) showProblem("No picture", "A file must be dropped. Given: something else.");
});

showTools();
showTheme();
connection.check();
