// The service as the page sees it: requests, answers and refusals.

import { apiKey, askForKey } from "./key.js";

const PATIENCE_SECONDS = 20;

// Where the service is. This file lies below it, so the page works behind a proxy that serves it under a prefix.
const ROOT = new URL("..", import.meta.url);

// The service refused a request; `detail` is in its own words.
export class Refusal extends Error {
  constructor(status, title, detail, retrySeconds) {
    super(detail);
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.retrySeconds = retrySeconds;
  }

  // Whether the same request may be answered later.
  get passes() {
    return this.status === 429 || this.status === 503;
  }
}

// No answer came.
export class Silence extends Error {}

export function addressOf(path) {
  return new URL(path, ROOT).href;
}

/**
 * Sends a request and reads the answer. If the service asks for a key, so does the page, and sends it again.
 * @param {RequestInit} options
 */
export async function call(path, options = {}) {
  for (;;) {
    const key = apiKey();
    const reply = await send(path, options, key);
    if (reply.response.status !== 401 && reply.response.status !== 403) return reply;
    if (key === apiKey() && !(await askForKey(key && detailOf(parsed(reply.text), reply.response)))) return reply;
  }
}

async function send(path, options, key) {
  const patience = AbortSignal.timeout(PATIENCE_SECONDS * 1000);
  const signal = options.signal ? AbortSignal.any([options.signal, patience]) : patience;
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  try {
    const response = await fetch(addressOf(path), { cache: "no-store", ...options, headers, signal });
    const blob = await response.blob();
    return { response, blob, text: blob.type.startsWith("image/") ? "" : await blob.text() };
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Silence("no answer", { cause: error });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {}; // a proxy's own error page: its status says enough
  }
}

function detailOf(value, response) {
  return value.detail ?? value.error ?? (response.statusText || `Status ${response.status}`);
}

function expectSuccess({ response, text }) {
  if (response.ok) return;
  const value = parsed(text);
  const seconds = Number(response.headers.get("retry-after")) || 1;
  throw new Refusal(response.status, value.title ?? response.statusText, detailOf(value, response), seconds);
}

// The JSON at `path`.
export async function read(path) {
  const reply = await call(path);
  expectSuccess(reply);
  return parsed(reply.text);
}

// Sends `content` to `path` and gives the JSON that comes back.
export async function write(path, content) {
  const headers = { "content-type": "application/json" };
  const reply = await call(path, { method: "POST", body: JSON.stringify(content), headers });
  expectSuccess(reply);
  return parsed(reply.text);
}

// What is at `path`, as it is.
export async function readFile(path) {
  const reply = await call(path);
  expectSuccess(reply);
  return reply.blob;
}

// The answer for one input, with the milliseconds that it took: all of them, and by the server's own clocks.
export async function predict({ path, body, type, signal }) {
  const started = performance.now();
  const reply = await call(path, { method: "POST", body, headers: { "content-type": type }, signal });
  const total = performance.now() - started;
  expectSuccess(reply);
  return { ...parsed(reply.text), milliseconds: { total, ...stages(reply.response.headers.get("server-timing")) } };
}

// "decode;dur=0.1, queue;dur=0.2" as {decode: 0.1, queue: 0.2}.
function stages(header) {
  const found = {};
  for (const [, name, value] of (header ?? "").matchAll(/([a-z_]+);dur=([\d.]+)/g)) found[name] = Number(value);
  return found;
}
