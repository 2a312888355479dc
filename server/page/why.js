// @ts-check
/** Why a picture matched: what each word rests on, drawn over the picture, one word at a time. */

import { byId, el } from "./dom.js";
import { call, patiently } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {{region: number[], whole: number[][], words: {word: string, relevance: number[][]}[]}} Maps */

export class Why {
  #button = byId("why", HTMLButtonElement);
  #words = byId("why-words", HTMLElement);
  #canvas = el("canvas", { className: "heat" });

  get on() { return this.#button.getAttribute("aria-pressed") === "true"; }

  /** Take everything away. */
  clear() {
    this.#canvas.remove();
    this.#words.replaceChildren();
    this.#words.hidden = true;
    this.#button.setAttribute("aria-pressed", "false");
    this.#button.textContent = texts.why;
  }

  /**
   * Ask the server, and show all words over the picture in `frame`. Throws as `call` does.
   * @param {string} id
   * @param {string} text
   * @param {HTMLElement} frame
   * @param {AbortSignal} signal
   * @param {() => void} busy
   */
  async show(id, text, frame, signal, busy) {
    const query = new URLSearchParams({ id, text });
    /** @type {Maps} */
    const maps = await patiently(signal, () => call(`/api/explain/words?${query}`, signal), busy);
    this.#button.setAttribute("aria-pressed", "true");
    this.#button.textContent = texts.whyBack;
    const choices = [{ word: texts.allWords, relevance: maps.whole }, ...maps.words];
    const buttons = choices.map(({ word, relevance }) => {
      const button = el("button", { type: "button", dir: "auto", textContent: word });
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        this.#canvas.setAttribute("role", "img");
        this.#canvas.setAttribute("aria-label", texts.whyAlt(word));
        this.#draw(relevance, maps.region);
      });
      return button;
    });
    // One word alone is all words.
    this.#words.replaceChildren(...(maps.words.length > 1 ? buttons : buttons.slice(1)));
    this.#words.hidden = false;
    frame.append(this.#canvas);
    (this.#words.firstElementChild instanceof HTMLButtonElement ? this.#words.firstElementChild : buttons[0])?.click();
  }

  /** Dark where a word rests on nothing, and the picture itself where it rests on most. @param {number[][]} rows @param {number[]} region */
  #draw(rows, region) {
    const height = rows.length, width = rows[0]?.length ?? 0, pen = this.#canvas.getContext("2d");
    if (!pen || !width) return;
    this.#canvas.width = width;
    this.#canvas.height = height;
    const pixels = pen.createImageData(width, height);
    rows.flat().forEach((level, at) => {
      pixels.data.set([255 * level, 110 * level, 0, 255 * (level > 0.5 ? 0.5 * level : 0.7 - 0.9 * level)], 4 * at);
    });
    pen.putImageData(pixels, 0, 0);
    const [left = 0, top = 0, wide = 1, high = 1] = region.map((side) => 100 * side);
    Object.assign(this.#canvas.style, { left: `${left}%`, top: `${top}%`, width: `${wide}%`, height: `${high}%` });
  }
}
