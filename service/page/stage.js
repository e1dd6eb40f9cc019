// Where a picture is given: the pad, a file or the camera.

import { Camera, hasCamera } from "./camera.js";
import { by } from "./dom.js";
import { Pad } from "./pad.js";
import { prepared, typeOf } from "./pictures.js";
import { hideProblem, showProblem } from "./problem.js";

export class Stage {
  #camera = new Camera(by("video"));
  #onChange;
  #picture = null; // the file that is shown in place of the pad

  // onChange(isOther): there is more to see, or (isOther) something else altogether.
  constructor(onChange) {
    this.#onChange = onChange;
    this.pad = new Pad(by("pad"), by("sheet"), () => {
      this.#showTools();
      onChange(this.pad.blank);
    });
    by("undo").addEventListener("click", () => this.pad.undo());
    by("camera").hidden = !hasCamera;
    by("camera").addEventListener("click", () => this.#startCamera());
    by("shoot").addEventListener("click", () => this.#takePicture());
    by("stop").addEventListener("click", () => {
      this.stopCamera();
      by("camera").focus();
    });
    by("picture").addEventListener("load", ({ target }) => {
      target.dataset.wide = String(target.naturalWidth >= target.naturalHeight);
    });
    by("picture").addEventListener("error", () => {
      if (!this.#picture) return;
      by("picture").hidden = true;
      by("file").hidden = false;
    });
    document.addEventListener("keydown", (event) => this.#key(event));
    this.#showTools();
  }

  // What the model is to look at, or null when there is nothing.
  async input() {
    if (this.#picture) return { body: this.#picture, type: typeOf(this.#picture), name: this.#picture.name };
    return this.pad.blank ? null : { body: await this.pad.png(), type: "image/png", name: "" };
  }

  async showPicture(file) {
    this.stopCamera();
    this.#picture = await prepared(file);
    const image = by("picture");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(this.#picture);
    image.alt = file.name ? `Your picture, ${file.name}` : "Your picture";
    by("file").textContent = file.name || "The picture";
    this.#show("picture");
    this.#onChange(true);
  }

  draw(strokes) {
    this.stopCamera();
    this.#picture = null;
    this.#show("pad");
    this.pad.replace(strokes);
  }

  clear() {
    if (!this.#picture) return this.pad.clear();
    this.#picture = null;
    this.#show("pad");
    return this.#onChange(true);
  }

  stopCamera() {
    if (by("stage").dataset.shows !== "video") return;
    this.#camera.stop();
    this.#show(this.#picture ? "picture" : "pad");
  }

  async #startCamera() {
    try {
      await this.#camera.start();
      this.#show("video");
      by("shoot").focus();
    } catch (/** @type {any} */ error) {
      this.#camera.stop();
      const reason =
        error.name === "NotAllowedError" ? "The browser does not allow this page to use it." : error.message;
      showProblem("No camera", reason);
    }
  }

  async #takePicture() {
    const shot = await this.#camera.shoot();
    await this.showPicture(new File([shot], "", { type: shot.type }));
    by("clear").focus();
  }

  #key(event) {
    const undoes = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
    const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
    if (!undoes || this.#picture || isTyping) return;
    event.preventDefault();
    this.pad.undo();
  }

  #show(what) {
    by("stage").dataset.shows = what;
    by("picture").hidden = what !== "picture";
    by("file").hidden = true;
    by("video").hidden = what !== "video";
    by("tools").hidden = what === "video";
    by("camera-tools").hidden = what !== "video";
    hideProblem();
    this.#showTools();
  }

  #showTools() {
    by("undo").disabled = Boolean(this.#picture) || !this.pad.canUndo;
    by("clear").disabled = !this.#picture && this.pad.blank;
  }
}
