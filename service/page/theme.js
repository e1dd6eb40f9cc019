// Runs before the first paint, so that a chosen colour scheme does not flash in as the other one.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("argmax-theme");
  } catch {
    // Storage may be forbidden; then the system's scheme it is.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
