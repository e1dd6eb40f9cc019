// The service as the page meets it: its answers, its refusals, and whether it is there at all.

const HEARTBEAT_SECONDS = 10;
const FIRST_RETRY_SECONDS = 0.5;
const LONGEST_RETRY_SECONDS = 4;
const PATIENCE_SECONDS = 20;

// The service refused; `detail` is in its own words.
export class Refusal extends Error {
  constructor(status, title, detail, retrySeconds) {
    super(detail);
    Object.assign(this, { status, title, detail, retrySeconds });
  }

  // Whether the same request may be answered later.
  get passes() {
    return this.status === 429 || this.status === 503;
  }
}

// Nothing came back.
export class Silence extends Error {}

let apiKey = "";

export function useKey(key) {
  apiKey = key;
}

// Paths are relative, so that the page works behind a proxy that serves it under a prefix.
async function call(path, options = {}) {
  const patience = AbortSignal.timeout(PATIENCE_SECONDS * 1000);
  const signal = options.signal ? AbortSignal.any([options.signal, patience]) : patience;
  const headers = { ...options.headers, ...(apiKey && { authorization: `Bearer ${apiKey}` }) };
  try {
    const response = await fetch(path, { cache: "no-store", ...options, headers, signal });
    return { response, body: await response.text() };
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Silence("no answer", { cause: error });
  }
}

function unwrap({ response, body }) {
  let value = {};
  try {
    value = JSON.parse(body);
  } catch {
    // A proxy's own error page: its status says enough.
  }
  if (response.ok) return value;
  const seconds = Number(response.headers.get("retry-after")) || 1;
  const title = value.title ?? response.statusText;
  throw new Refusal(response.status, title, value.detail ?? "The service gave no reason.", seconds);
}

// What the service says at `path`.
export async function read(path) {
  return unwrap(await call(path));
}

// The answer for one input, with the milliseconds that it took: all of them, and by the server's own clocks.
export async function predict({ model, version, body, type, signal }) {
  const query = new URLSearchParams({ model, ...(version && { version }), probabilities: "true", show_input: "true" });
  const started = performance.now();
  const reply = await call(`predict?${query}`, { method: "POST", body, headers: { "content-type": type }, signal });
  const total = performance.now() - started;
  return { ...unwrap(reply), milliseconds: { total, ...stages(reply.response.headers.get("server-timing")) } };
}

// "decode;dur=0.1, queue;dur=0.2" as {decode: 0.1, queue: 0.2}.
function stages(header) {
  const found = {};
  for (const [, name, value] of (header ?? "").matchAll(/([a-z_]+);dur=([\d.]+)/g)) found[name] = Number(value);
  return found;
}

// Watches whether predictions will come, and tries again, ever more seldom, while they will not.
export class Connection {
  #onState;
  #onReady;
  #state = "connecting";
  #failures = 0;
  #served = ""; // which versions were ready, in the service's words
  #timer = 0;
  #checking = false;

  // onState(state, seconds): 'ready', 'starting', 'busy' or 'lost', and when it is tried again.
  // onReady(): it just became so, or serves other versions than before.
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
      const { response, body } = await call("readyz");
      if (response.ok) this.#succeed(body);
      else this.fail("starting");
    } catch {
      this.fail("lost");
    } finally {
      this.#checking = false;
    }
  }

  // Something else has noticed that the service is not there.
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
    this.#timer = setTimeout(() => (document.hidden && this.ready ? this.#wait(seconds) : this.check()), seconds * 1000);
  }
}

// Runs `work` for the newest wish: never two at once, and never more often than `pause` milliseconds allow.
export class LatestOnly {
  #work;
  #pause;
  #wanted = false;
  #running = false;

  constructor(work, pause) {
    this.#work = work;
    this.#pause = pause;
  }

  async want() {
    this.#wanted = true;
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#wanted) {
        await new Promise((resolve) => setTimeout(resolve, this.#pause));
        this.#wanted = false;
        await this.#work();
      }
    } finally {
      this.#running = false;
    }
  }
}
