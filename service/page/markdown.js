// The part of Markdown that a model's card is written in, as elements. Text is never read as HTML.

import { make } from "./dom.js";

// imageFor(name) gives the element that shows a picture.
export function render(text, imageFor) {
  const lines = text.split("\n");
  const elements = [];
  while (lines.length) elements.push(block(lines, imageFor));
  return elements.filter(Boolean);
}

// Takes one block off the front of `lines`.
function block(lines, imageFor) {
  const line = lines.shift();
  if (!line.trim()) return null;
  const heading = line.match(/^(#{1,4}) (.*)/);
  if (heading) return make(`h${Math.min(heading[1].length + 1, 6)}`, {}, inline(heading[2], imageFor));
  if (line.startsWith("```")) {
    const end = lines.findIndex((each) => each.startsWith("```"));
    const body = lines.splice(0, end < 0 ? lines.length : end + 1).filter((each) => !each.startsWith("```"));
    return make("pre", { tabindex: "0" }, make("code", {}, body.join("\n")));
  }
  if (line.startsWith("|")) return table([line, ...take(lines, (each) => each.startsWith("|"))], imageFor);
  if (/^[-*] /.test(line)) {
    const items = [line, ...take(lines, (each) => /^[-*] /.test(each))];
    return make(
      "ul",
      {},
      items.map((item) => make("li", {}, inline(item.slice(2), imageFor))),
    );
  }
  const rest = take(lines, (each) => each.trim() && !/^(#|```|\||[-*] )/.test(each));
  return make("p", {}, inline([line, ...rest].join(" "), imageFor));
}

// Takes lines off the front for as long as they belong.
function take(lines, belongs) {
  const end = lines.findIndex((each) => !belongs(each));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function table(lines, imageFor) {
  const [header, rule, ...rows] = lines;
  const cells = (line) =>
    line
      .replace(/^\||\|$/g, "")
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim());
  const row = (tag, line) =>
    make(
      "tr",
      {},
      cells(line).map((cell) => make(tag, {}, inline(cell, imageFor))),
    );
  const body = /^[|\s:-]+$/.test(rule ?? "") ? rows : [rule, ...rows].filter(Boolean);
  return make(
    "div",
    { class: "scroll", tabindex: "0" },
    make(
      "table",
      {},
      make("thead", {}, row("th", header)),
      make(
        "tbody",
        {},
        body.map((line) => row("td", line)),
      ),
    ),
  );
}

// Code, bold text, pictures, links, and what a backslash makes plain; a link is shown as its text, for a card's links
// lead elsewhere.
function inline(text, imageFor) {
  const parts = text.split(/(\\[\\`*_<~|&\]]|`[^`]+`|\*\*[^*]+\*\*|!?\[[^\]\\]*\]\([^)]*\))/);
  return parts.map((part) => {
    if (/^\\./.test(part)) return part.slice(1);
    if (part.startsWith("`")) return make("code", {}, breakable(part.slice(1, -1)));
    if (part.startsWith("**")) return make("b", {}, part.slice(2, -2));
    const link = part.match(/^(!?)\[([^\]]*)\]\(([^)]*)\)$/);
    if (!link) return breakable(part);
    return link[1] ? imageFor(link[3], link[2]) : link[2];
  });
}

// Words that may be cut wherever a line ends if they are as long as a digest. Numbers and names stay whole.
function breakable(text) {
  return text.split(/(\S{25,})/).map((part, i) => (i % 2 ? make("span", { class: "long" }, part) : part));
}
