// Prometheus' text format: what is read from /metrics, and what is computed from two readings.

// Gives the samples by metric name: {name: [{labels, value}, ...]}.
export function parse(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = line.match(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    found[match[1]] ??= [];
    found[match[1]].push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

// The sum of a metric's samples, or of those that `belongs` accepts.
export function sum(samples, name, belongs = (/** @type {any} */ _labels) => true) {
  return (samples[name] ?? []).reduce((total, { labels, value }) => total + (belongs(labels) ? value : 0), 0);
}

// How much a counter has grown. One that was reset, by a restart, has grown from zero.
export function growth(before, now, name, belongs = undefined) {
  const grown = sum(now, name, belongs) - sum(before, name, belongs);
  return grown < 0 ? sum(now, name, belongs) : grown;
}

// A quantile of what a histogram has observed between two readings, or null if nothing was.
export function quantile(before, now, name, share) {
  const buckets = cumulative(now, name);
  const earlier = cumulative(before, name);
  const bounds = [...buckets.keys()].sort((a, b) => a - b);
  const counts = bounds.map((bound) => buckets.get(bound) - (earlier.get(bound) ?? 0));
  const total = counts.at(-1);
  if (!total || total < 0) return null;
  const rank = share * total;
  const at = counts.findIndex((count) => count >= rank);
  if (bounds[at] === Infinity) return bounds[at - 1] ?? null;
  const [low, below] = at ? [bounds[at - 1], counts[at - 1]] : [0, 0];
  return low + (bounds[at] - low) * ((rank - below) / (counts[at] - below || 1));
}

// A histogram's buckets, summed over its other labels: upper bound to count.
function cumulative(samples, name) {
  const found = new Map();
  for (const { labels, value } of samples[`${name}_bucket`] ?? []) {
    const bound = Number(labels.le.replace("Inf", "Infinity"));
    found.set(bound, (found.get(bound) ?? 0) + value);
  }
  return found;
}
