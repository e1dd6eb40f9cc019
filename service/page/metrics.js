// The page of the metrics: reads /metrics every two seconds and draws what has changed.

import { Chart } from "./chart.js";
import { offerColours } from "./colours.js";
import { by } from "./dom.js";
import { growth, parse, quantile, sum } from "./exposition.js";
import { hideProblem, showError } from "./problem.js";
import { readFile } from "./service.js";

const SECONDS = 2;
const POINTS = 150; // five minutes

const DURATION = "inference_request_duration_seconds";

const count = (value) => (value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value).toLocaleString("en"));
const time = (seconds) => (seconds < 1 ? `${(1000 * seconds).toPrecision(3)} ms` : `${seconds.toFixed(2)} s`);

const succeeded = ({ code }) => code.startsWith("2");
const failed = ({ code }) => !code.startsWith("2");

// Each chart: its lines, and their values from the readings before and now and the seconds between them.
const CHARTS = [
  {
    title: "Requests per second",
    lines: ["answered", "failed"],
    write: count,
    values: (before, now, seconds) =>
      [succeeded, failed].map((kind) => growth(before, now, "inference_requests_total", kind) / seconds),
  },
  {
    title: "Latency in the service",
    lines: ["median", "95 %", "99 %"],
    write: time,
    values: (before, now) => [0.5, 0.95, 0.99].map((share) => quantile(before, now, DURATION, share)),
  },
  {
    title: "Images per second",
    lines: ["images"],
    write: count,
    values: (before, now, seconds) => [growth(before, now, "inference_images_total") / seconds],
  },
  {
    title: "Images per batch",
    lines: ["mean"],
    write: count,
    values: (before, now) => {
      const batches = growth(before, now, "inference_executions_total");
      return [batches ? growth(before, now, "inference_images_total") / batches : null];
    },
  },
  {
    title: "Images waiting",
    lines: ["queue", "in flight"],
    write: count,
    values: (_, now) => [sum(now, "inference_queue_depth"), sum(now, "inference_in_flight")],
  },
  {
    title: "Processes",
    lines: ["workers", "HTTP", "restarts"],
    write: count,
    values: (_, now) => [
      sum(now, "inference_worker_up"),
      sum(now, "inference_http_processes"),
      sum(now, "inference_worker_restarts_total") + sum(now, "inference_http_restarts_total"),
    ],
  },
];

const charts = CHARTS.map((described) => ({ ...described, chart: new Chart({ ...described, points: POINTS }) }));
by("charts").append(...charts.map(({ chart }) => chart.element));

let before = null;
let readAt = 0;

async function update() {
  try {
    const now = parse(await (await readFile("metrics")).text());
    const at = performance.now() / 1000;
    hideProblem();
    if (before) for (const { chart, values } of charts) chart.add(values(before, now, at - readAt));
    before = now;
    readAt = at;
  } catch (error) {
    showError(error);
  }
  setTimeout(update, 1000 * SECONDS);
}

offerColours();
update();
