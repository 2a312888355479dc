// @ts-check
/** The search box: its pictures and filters are chips, and all other words are typed. */

import { byId, el } from "./dom.js";
import { join, split, write } from "./line.js";
import { said } from "./said.js";
import { texts } from "./texts.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./line.js").Filter} Filter */
/** @typedef {"picture" | "like" | "unlike"} Part */

const PARTS = /** @type {const} */ (["picture", "like", "unlike"]);

export class Box {
  /** @type {Filter[]} */
  filters = [];
  words = byId("words", HTMLInputElement);
  #list = byId("chips", HTMLElement);
  /** @type {State | null} */
  #state = null;
  #go;

  /** @param {(change: Partial<State>) => void} go what a person takes away is searched without at once */
  constructor(go) {
    this.#go = go;
    this.words.addEventListener("input", () => this.#take());
    this.words.addEventListener("keydown", (event) => {
      const at = this.words.selectionEnd;
      if (event.key === "Backspace" && at === 0 && this.filters.length) {
        event.preventDefault();
        this.edit(this.filters.length - 1);
      }
    });
  }

  /** The whole line. */
  get line() { return join(this.filters, this.words.value); }

  /** Show a search. @param {State} state */
  show(state) {
    this.#state = state;
    // A question is asked as it is.
    const { filters, rest } = state.ask ? { filters: [], rest: state.ask } : split(state.text);
    this.filters = filters;
    this.words.value = rest;
    this.#chips();
  }

  /** Put a filter into the line. @param {Filter} filter */
  add(filter) {
    if (!this.filters.some((one) => write(one) === write(filter))) this.filters.push(filter);
    this.#chips();
  }

  /** A filter as words again. @param {number} number */
  edit(number) {
    const [filter] = this.filters.splice(number, 1);
    if (!filter) return;
    const text = write(filter);
    this.words.value = [text, this.words.value].filter(Boolean).join(" ");
    this.words.focus();
    this.words.setSelectionRange(text.length, text.length);
    this.#chips();
    this.words.dispatchEvent(new Event("input"));
  }

  /** Make chips of the filters that are complete. */
  #take() {
    const { filters, rest } = split(this.words.value, this.words.selectionEnd ?? 0);
    if (!filters.length) return;
    const tail = this.words.value.length - (this.words.selectionEnd ?? 0);
    this.words.value = rest;
    const at = Math.max(0, rest.length - tail);
    this.words.setSelectionRange(at, at);
    for (const filter of filters) this.add(filter);
  }

  #chips() {
    const state = this.#state;
    const pictures = PARTS.flatMap((part) => (state?.[part] ? [pictureChip(state, part, () => this.#remove({ [part]: "" }))] : []));
    this.#list.replaceChildren(...pictures, ...this.filters.map((filter, number) => {
      const text = write(filter), name = el("button", { type: "button", className: "value", textContent: text, title: said.edit });
      name.dir = "auto";
      name.addEventListener("click", () => this.edit(number));
      return el("span", { className: "chip filter" }, name, mark(text, () => {
        this.filters.splice(number, 1);
        this.#remove({});
      }));
    }));
    this.words.placeholder = this.#list.childElementCount ? "" : said.placeholder;
  }

  /** @param {Partial<State>} change */
  #remove(change) {
    this.#go({ text: this.line, ...change });
    // The button that was pressed is gone: the next one, or the words, take its place.
    (this.#list.querySelector("button") ?? this.words).focus();
  }
}

/** @param {string} what @param {() => void} remove */
function mark(what, remove) {
  const button = el("button", { type: "button", textContent: "✕" });
  button.setAttribute("aria-label", texts.without(what));
  button.addEventListener("click", remove);
  return button;
}

/** @param {State} state @param {Part} part @param {() => void} remove */
function pictureChip(state, part, remove) {
  const name = texts.chips[part];
  const image = el("img", { alt: name, title: name, src: part === "picture" ? `/upload/${state.picture}` : `/thumb/${state[part]}?size=128` });
  image.addEventListener("error", () => image.replaceWith(el("span", { textContent: texts.gone(name) })), { once: true });
  return el("span", { className: `chip ${part}` }, image, mark(name, remove));
}
