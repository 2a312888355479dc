// @ts-check
/** A justified grid: every row as wide as the page. It is one stop of the tab key, and arrows move inside it. */

import { format } from "./address.js";
import { el, nameOf, opensElsewhere, times } from "./dom.js";
import { showImage } from "./images.js";
import { textTile } from "./passage.js";
import { texts } from "./texts.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./requests.js").Hit} Hit */

export const RESULT = "application/x-mmsearch-item";
const GAP = 6, HEIGHT = 190, LOW = 120, NARROW = 720, THUMB = 384;

/** @param {Hit} hit */
export const smallThumb = (hit) => `${hit.thumb_url}?size=${THUMB}`;
/** How likely a hit is relevant, in words; nothing where that is not known. A hit that meaning alone would call unlikely was
 * raised by its words. @param {Hit} hit */
export const relevanceOf = ({ relevance, matched_words: words }) => {
  const word = (typeof relevance === "number" && texts.relevances.find(([least]) => relevance >= least)?.[1]) || "";
  return words?.length && (!word || word === texts.relevances.at(-1)?.[1]) ? texts.byWords : word;
};

export class Grid {
  /** @type {HTMLAnchorElement[]} */
  #tiles = [];
  /** @type {{first: number, middles: number[]}[]} */
  #rows = [];
  #current = 0;
  #list;
  #open;
  #wants;
  #frame = 0;
  #focuses = false;

  /**
   * @param {HTMLElement} list
   * @param {(number: number) => void} open
   * @param {() => void} wants called whenever the end of the grid comes near
   */
  constructor(list, open, wants) {
    this.#list = list;
    this.#open = open;
    this.#wants = wants;
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", (event) => {
      const number = this.#tiles.findIndex((tile) => tile === event.target);
      if (number >= 0) this.#hold(number);
    });
    addEventListener("scroll", () => this.fill(), { passive: true });
    new ResizeObserver(() => {
      cancelAnimationFrame(this.#frame);
      this.#frame = requestAnimationFrame(() => { this.#lay(); this.fill(); });
    }).observe(list);
    addEventListener("resize", () => this.fill());
  }

  get length() { return this.#tiles.length; }

  /** Take all tiles away. */
  clear() {
    this.#tiles = [];
    this.#rows = [];
    this.#current = 0;
    this.#list.replaceChildren();
  }

  /**
   * Show these hits, whose first ones are shown already.
   * @param {Hit[]} hits
   * @param {State} state
   * @param {AbortSignal} signal
   */
  show(hits, state, signal) {
    const before = this.#tiles.length;
    for (const hit of hits.slice(before)) this.#add(hit, state, signal);
    this.#hits = hits;
    this.#lay();
    if (this.#focuses && this.#tiles.length) {
      this.#focuses = false;
      // Unless somebody went elsewhere meanwhile.
      if (document.activeElement === this.#list || document.activeElement === document.body) this.focus(0);
    }
  }

  /** Ask for more while the end is within a window's height of what is seen. */
  fill() {
    if (this.#tiles.length && this.#list.getBoundingClientRect().bottom < 2 * innerHeight + 200) this.#wants();
  }

  /** Focus a tile, or what will be the first one as soon as it is there. @param {number} number */
  focus(number) {
    const tile = this.#tiles[number];
    this.#focuses = !tile;
    if (tile) { tile.focus({ preventScroll: true }); tile.scrollIntoView({ block: "nearest" }); }
    else this.#list.focus({ preventScroll: true });
  }

  /** The address of every tile is one of the current search. @param {State} state */
  readdress(state) {
    this.#tiles.forEach((tile, number) => { tile.href = format({ ...state, item: this.#hits[number]?.id ?? "" }); });
  }

  /** @type {Hit[]} */
  #hits = [];

  /** @param {Hit} hit @param {State} state @param {AbortSignal} signal */
  #add(hit, state, signal) {
    const number = this.#tiles.length, name = nameOf(hit), when = hit.kind === "video" ? times(hit) : "";
    const copies = hit.copies?.length ? texts.copies(hit.copies.length) : "";
    const tile = el("a", { className: "tile", href: format({ ...state, item: hit.id }), draggable: true, tabIndex: number === this.#current ? 0 : -1 });
    tile.setAttribute("aria-label", [hit.kind === "text" ? hit.text ?? name : name, when, copies, texts.relevance(relevanceOf(hit))].filter(Boolean).join(", "));
    if (hit.kind === "text") tile.append(textTile(hit, relevanceOf(hit), signal));
    else {
      const image = el("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
      showImage(image, smallThumb(hit), signal, (why) => image.replaceWith(
        el("span", { className: "gone", dir: "auto", textContent: why ? texts.refused(name, why) : texts.unseen(name) })));
      tile.append(image, el("span", { className: "label" }, el("span", { textContent: [when, copies && `+${hit.copies?.length}`].filter(Boolean).join(" ") }), el("span", { textContent: relevanceOf(hit) })));
    }
    // Seen on paper, where nothing can be opened.
    tile.append(el("span", { className: "name", dir: "auto", textContent: name }));
    tile.addEventListener("click", (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      this.#open(number);
    });
    tile.addEventListener("dragstart", (event) => event.dataTransfer?.setData(RESULT, hit.id));
    this.#tiles.push(tile);
    this.#list.append(el("li", {}, tile));
  }

  #lay() {
    const width = this.#list.clientWidth, goal = innerWidth < NARROW ? LOW : HEIGHT;
    /** @type {[HTMLElement, number][]} */
    let row = [];
    let sum = 0, first = 0;
    this.#rows = [];
    const place = (/** @type {number} */ height) => {
      let left = 0;
      const middles = row.map(([item, ratio]) => {
        const wide = Math.floor(ratio * height);
        item.style.width = `${wide}px`;
        item.style.height = `${Math.round(height)}px`;
        left += wide + GAP;
        return left - wide / 2;
      });
      this.#rows.push({ first, middles });
      first += row.length;
      row = [];
      sum = 0;
    };
    const free = () => width - GAP * (row.length - 1) - row.length;
    this.#tiles.forEach((tile, number) => {
      const hit = this.#hits[number], item = tile.parentElement;
      if (!hit || !item) return;
      const ratio = hit.kind === "text" ? 1.6 : Math.min(2.6, Math.max(0.5, (hit.width || 4) / (hit.height || 3)));
      row.push([item, ratio]);
      sum += ratio;
      if (free() / sum <= goal) place(free() / sum);
    });
    if (row.length) place(Math.min(goal, free() / sum));
  }

  /** The tile that the tab key comes to. @param {number} number */
  #hold(number) {
    const before = this.#tiles[this.#current], now = this.#tiles[number];
    if (before) before.tabIndex = -1;
    if (now) now.tabIndex = 0;
    this.#current = number;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !(event.target instanceof HTMLAnchorElement)) return;
    const to = this.#target(event.key);
    if (to === null) return;
    event.preventDefault();
    const tile = this.#tiles[Math.max(0, Math.min(this.#tiles.length - 1, to))];
    tile?.focus({ preventScroll: true });
    tile?.scrollIntoView({ block: "nearest" });
    if (to + 10 > this.#tiles.length) this.#wants();
  }

  /** Where a key leads from the current tile; null for one that is not of the grid. @param {string} key */
  #target(key) {
    const at = this.#current;
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    if (key === "Home") return 0;
    if (key === "End") return this.#tiles.length - 1;
    if (key !== "ArrowDown" && key !== "ArrowUp") return null;
    const here = this.#rows.findIndex((row) => at < row.first + row.middles.length);
    const row = this.#rows[here], other = this.#rows[here + (key === "ArrowDown" ? 1 : -1)];
    if (!row || !other) return at;
    const middle = row.middles[at - row.first] ?? 0;
    const away = other.middles.map((value) => Math.abs(value - middle));
    return other.first + away.indexOf(Math.min(...away));
  }
}
