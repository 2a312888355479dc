// @ts-check
/** The pictures of a search, as chips in its box. */

import { byId, el } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {"picture" | "like" | "unlike"} Part */

const PARTS = /** @type {const} */ (["picture", "like", "unlike"]);

/**
 * @param {State} state
 * @param {(part: Part) => void} remove
 */
export function showChips(state, remove) {
  const list = byId("chips", HTMLElement);
  list.replaceChildren(...PARTS.filter((part) => state[part]).map((part) => chip(state, part, () => {
    remove(part);
    // The button that was pressed is gone: the next one, or the words, take its place.
    (list.querySelector("button") ?? byId("words", HTMLInputElement)).focus();
  })));
}

/** @param {State} state @param {Part} part @param {() => void} remove */
function chip(state, part, remove) {
  const name = texts.chips[part];
  const image = el("img", { alt: name, title: name, src: part === "picture" ? `/upload/${state.picture}` : `/thumb/${state[part]}?size=128` });
  image.addEventListener("error", () => image.replaceWith(el("span", { textContent: texts.gone(name) })), { once: true });
  const button = el("button", { type: "button", textContent: "✕" });
  button.setAttribute("aria-label", texts.without(name));
  button.addEventListener("click", remove);
  return el("span", { className: `chip ${part}` }, image, button);
}
