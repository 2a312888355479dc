// @ts-check
/** A strip of years beside a list by date, which leads to any of them at once. */

import { byId, el } from "./dom.js";
import { said } from "./said.js";

export class Scrubber {
  #box = byId("scrubber", HTMLElement);
  #bubble = el("output");
  #grid;
  #hits;
  #key = "";
  #target = -1;
  /** @type {{month: string, from: number}[]} Months in the order of the list, with how many of 1 come before each. */
  #months = [];

  /** @param {import("./grid.js").Grid} grid @param {() => (import("./requests.js").Hit | undefined)[]} hits */
  constructor(grid, hits) {
    this.#grid = grid;
    this.#hits = hits;
    const box = this.#box;
    box.addEventListener("pointerdown", (event) => { event.preventDefault(); box.setPointerCapture(event.pointerId); box.focus(); this.#point(event); });
    box.addEventListener("pointermove", (event) => { if (box.hasPointerCapture(event.pointerId)) this.#point(event); });
    box.addEventListener("keydown", (event) => this.#step(event));
    addEventListener("scroll", () => this.#follow(), { passive: true });
  }

  /**
   * @param {number} total how long the list is, 0 for none
   * @param {import("./address.js").State} state
   * @param {() => Promise<import("./facets.js").All>} facets the counts of this list
   */
  show(total, state, facets) {
    const key = total ? JSON.stringify([total, state.text, state.kind, state.sort]) : "";
    if (key === this.#key) { this.#follow(); return; }
    this.#key = key;
    this.#target = -1;
    this.#box.hidden = true;
    if (total < 60) return;
    facets().then(({ months }) => {
      if (this.#key !== key) return;
      const every = Object.entries(months).sort(([a], [b]) => (state.sort === "oldest" ? 1 : -1) * a.localeCompare(b));
      const sum = every.reduce((all, [, count]) => all + count, 0);
      let before = 0;
      this.#months = every.map(([month, count]) => { const from = before / sum; before += count; return { month, from }; });
      if (this.#months.length < 2) return;
      this.#draw();
      this.#box.hidden = false;
      this.#follow();
    }, () => {});
  }

  #draw() {
    let year = "", last = -1;
    const marks = this.#months.flatMap(({ month, from }) => {
      if (month.slice(0, 4) === year || from - last < 0.035) return [];
      year = month.slice(0, 4);
      last = from;
      const mark = el("span", { textContent: year });
      mark.style.top = `${100 * from}%`;
      return [mark];
    });
    this.#box.replaceChildren(...marks, this.#bubble);
    this.#box.setAttribute("aria-valuemax", String(this.#months.length - 1));
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const { top, height } = this.#box.getBoundingClientRect(), part = Math.max(0, Math.min(0.9999, (event.clientY - top) / height));
    this.#lead(part);
    this.#say(this.#months.findLastIndex(({ from }) => from <= part), part);
  }

  /** @param {KeyboardEvent} event */
  #step(event) {
    const now = Number(this.#box.getAttribute("aria-valuenow")), last = this.#months.length - 1;
    const to = { ArrowDown: now + 1, ArrowRight: now + 1, ArrowUp: now - 1, ArrowLeft: now - 1, PageDown: now + 12, PageUp: now - 12, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(last, to)), from = this.#months[at]?.from ?? 0;
    this.#lead(from);
    this.#say(at, from);
  }

  /** @param {number} part of the list */
  #lead(part) {
    this.#target = Math.min(this.#grid.length - 1, Math.ceil(part * this.#grid.length));
    this.#grid.scrollTo(this.#target, true);
  }

  /** Say which month is in view. */
  #follow() {
    if (this.#box.hidden || !this.#months.length) return;
    const { seen, view: [first = 0, last = 0] } = this.#grid;
    // Where somebody was led to is what is meant, as long as it can be seen.
    if (this.#target >= first && this.#target < last) return;
    this.#target = -1;
    const part = seen / Math.max(1, this.#grid.length);
    const taken = this.#hits()[seen]?.taken_at?.slice(0, 7), at = this.#months.findIndex(({ month }) => month === taken);
    this.#say(at >= 0 ? at : this.#months.findLastIndex(({ from }) => from <= part), part);
  }

  /** @param {number} at @param {number} part */
  #say(at, part) {
    const text = said.month(this.#months[at]?.month ?? "");
    this.#box.setAttribute("aria-valuenow", String(at));
    this.#box.setAttribute("aria-valuetext", text);
    this.#bubble.textContent = text;
    this.#bubble.style.top = `${100 * part}%`;
  }
}
