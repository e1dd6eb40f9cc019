// The line in the header that says whether the service answers.

import { by } from "./dom.js";

const STATES = { ready: "Ready", starting: "Starting", busy: "Busy", lost: "Not reachable" };

let countdown = 0;

export function showState(state, seconds) {
  clearInterval(countdown);
  by("state").dataset.state = state;
  if (by("state-text").textContent !== STATES[state]) by("state-text").textContent = STATES[state];
  const until = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    by("state-more").textContent = state !== "ready" && left > 1 ? `next try in ${left} s` : "";
  };
  tick();
  if (seconds > 1) countdown = setInterval(tick, 250);
}
