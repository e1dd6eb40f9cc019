// Whether the service answers, and how often to ask again while it does not.

import { call } from "./service.js";

const HEARTBEAT_SECONDS = 10;
const FIRST_RETRY_SECONDS = 0.5;
const LONGEST_RETRY_SECONDS = 4;

export class Connection {
  #onState;
  #onReady;
  #state = "connecting";
  #failures = 0;
  #served = ""; // which versions were ready, in the service's words
  #timer = 0;
  #checking = false;

  // onState(state, seconds): 'ready', 'starting', 'busy' or 'lost', and the seconds until the next try.
  // onReady(): it has become ready, or serves other versions than before.
  constructor({ onState, onReady }) {
    this.#onState = onState;
    this.#onReady = onReady;
    window.addEventListener("online", () => this.check());
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  get ready() {
    return this.#state === "ready";
  }

  async check() {
    if (this.#checking) return;
    this.#checking = true;
    clearTimeout(this.#timer);
    try {
      const { response, text } = await call("readyz");
      if (response.ok) this.#succeed(text);
      else this.fail("starting");
    } catch {
      this.fail("lost");
    } finally {
      this.#checking = false;
    }
  }

  // Something else has noticed that the service does not answer.
  fail(state, seconds = 0) {
    const backoff = Math.min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** this.#failures++);
    this.#state = state;
    this.#wait(Math.max(seconds, backoff));
    this.#onState(state, Math.max(seconds, backoff));
  }

  #succeed(served) {
    const isNews = !this.ready || served !== this.#served;
    this.#served = served;
    this.#failures = 0;
    this.#state = "ready";
    this.#wait(HEARTBEAT_SECONDS);
    this.#onState("ready", 0);
    if (isNews) this.#onReady();
  }

  #wait(seconds) {
    clearTimeout(this.#timer);
    const next = () => (document.hidden && this.ready ? this.#wait(seconds) : this.check());
    this.#timer = setTimeout(next, seconds * 1000);
  }
}
