// Short names for what every module does with the document.

/** @returns {any} */
export const by = (id) => document.getElementById(id);

/**
 * Makes an element with attributes and content. Text is never read as HTML.
 * @returns {any}
 */
export function make(tag, attributes, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content.flat(Infinity).filter((part) => part !== undefined && part !== ""));
  return element;
}
