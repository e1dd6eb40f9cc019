// Dark or light: as the system has it, until it is chosen by hand. theme.js applies the choice before the first paint.

import { by } from "./dom.js";

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : systemIsDark.matches;
}

// Wires the button; onChange() is called whenever the colours have changed.
export function offerColours(onChange = () => {}) {
  const show = () => {
    by("theme").setAttribute("aria-pressed", String(isDark()));
    onChange();
  };
  by("theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("argmax-theme", theme);
    } catch {
      // Storage may be forbidden; the choice then lasts as long as the page.
    }
    show();
  });
  systemIsDark.addEventListener("change", show);
  show();
}
