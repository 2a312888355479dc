// @ts-check
/** The grid: as high as all results, of which only those in view are there. It is one stop of the tab key, and arrows move inside it. */

import { el, opensElsewhere } from "./dom.js";
import { Layout } from "./layout.js";
import { checkOf, stackOf, tileOf } from "./tile.js";

export { RESULT, relevanceOf, smallThumb } from "./tile.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./requests.js").Hit} Hit */

const HEIGHT = 190, LOW = 120, NARROW = 720, BLOCK = 100, AHEAD = 900, PRINTED = 500;

/**
 * What the grid asks for: `open` a result; `need` the results from one to another; `check` one, up to it with `range`; open the `stack`
 * of its copies at an element; `checked` says which are selected.
 * @typedef {{open: (number: number) => void, need: (first: number, last: number) => void, check: (number: number, range: boolean) => void,
 *   checked: (id: string) => boolean, stack: (hit: Hit, at: HTMLElement) => void}} Asks
 */

export class Grid {
  /** @type {(Hit | undefined)[]} */
  #hits = [];
  /** @type {Map<number, HTMLLIElement>} What is there, by the number of its result. */
  #shown = new Map();
  #layout = new Layout();
  /** @type {number[]} How many results of each block were known when it was laid out. */
  #known = [];
  #current = 0;
  /** The result that shall have the focus once it is there. */
  #awaited = -1;
  /** @type {State | null} */
  #state = null;
  /** @type {AbortSignal | null} */
  #signal = null;
  #list;
  #asks;
  #frame = 0;
  #resting = 0;

  /** @param {HTMLElement} list @param {Asks} asks */
  constructor(list, asks) {
    this.#list = list;
    this.#asks = asks;
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", (event) => {
      const number = this.#numberOf(event.target);
      if (number >= 0 && event.target instanceof HTMLAnchorElement) this.#hold(number);
    });
    list.addEventListener("click", (event) => this.#click(event));
    addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.#soon(true)).observe(list);
    addEventListener("resize", () => this.#soon(true));
    addEventListener("beforeprint", () => this.#render(0, Infinity));
    addEventListener("afterprint", () => this.#draw());
  }

  get length() { return this.#hits.length; }

  /** The results in view, the first and the one after the last. */
  get view() {
    const top = this.#top, rows = this.#layout.between(top, top + innerHeight);
    const last = rows.at(-1);
    return [rows[0]?.first ?? 0, last ? last.first + last.lefts.length : 0];
  }

  /** The last result of the first row that the head of the page leaves to be seen. */
  get seen() {
    const top = this.#top + this.#room + 1, row = this.#layout.between(top, top + innerHeight)[0];
    return row ? row.first + row.lefts.length - 1 : 0;
  }

  /** How much of the window's top is not free. */
  get #room() {
    const head = document.querySelector("header");
    return (head && getComputedStyle(head).position === "sticky" ? head.offsetHeight : 0) + 8;
  }

  /** Take all tiles away. */
  clear() {
    this.#hits = [];
    this.#shown.clear();
    this.#known = [];
    this.#layout = new Layout();
    this.#current = 0;
    this.#list.replaceChildren();
    this.#list.style.height = "";
  }

  /**
   * Show these results, of which those that were there before are the same.
   * @param {(Hit | undefined)[]} hits
   * @param {State} state
   * @param {AbortSignal} signal
   */
  show(hits, state, signal) {
    this.#hits = hits;
    this.#state = state;
    this.#signal = signal;
    this.#lay();
    this.#draw();
  }

  /** Ask for what is missing in view, and behind it. */
  fill() {
    clearTimeout(this.#resting);
    const [first = 0, last = 0] = this.view, ahead = 2 * (last - first) + 20;
    if (this.#hits.length) this.#asks.need(first - ahead / 2, Math.max(last + ahead, 1));
  }

  /** Focus a tile, or what will be there as soon as it is. @param {number} number */
  focus(number) {
    const tile = this.#tile(number);
    this.#awaited = tile ? -1 : number;
    if (tile) { tile.focus({ preventScroll: true }); return; }
    this.#list.focus({ preventScroll: true });
    if (number < this.#hits.length) this.scrollTo(number);
  }

  /** Bring a result into view. @param {number} number @param {boolean} [atTop] */
  scrollTo(number, atTop = false) {
    const row = this.#layout.rowOf(number);
    if (!row) return;
    const top = this.#top, room = this.#room;
    if (atTop || row.top < top + room) scrollTo({ top: scrollY + row.top - top - room, behavior: "instant" });
    else if (row.top + row.height > top + innerHeight - 8) scrollTo({ top: scrollY + row.top + row.height - top - innerHeight + 16, behavior: "instant" });
    this.#draw();
  }

  /** Show anew which are selected. */
  mark() {
    for (const [number, item] of this.#shown) {
      const hit = this.#hits[number], on = Boolean(hit && this.#asks.checked(hit.id));
      item.classList.toggle("on", on);
      item.querySelector(".check")?.setAttribute("aria-pressed", String(on));
    }
  }

  /** How far the window's top is below that of the grid. */
  get #top() { return -this.#list.getBoundingClientRect().top; }

  /** @param {boolean} [lay] */
  #soon(lay = false) {
    if (lay) this.#known.length = 0;
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      if (!this.#known.length) this.#lay();
      this.#draw();
      // What only flies past is not asked for.
      clearTimeout(this.#resting);
      this.#resting = setTimeout(() => this.fill(), 60);
    });
  }

  #lay() {
    const width = this.#list.clientWidth, goal = innerWidth < NARROW ? LOW : HEIGHT, top = this.#top;
    const before = top > 0 ? this.#layout.between(top, top + innerHeight)[0] : undefined;
    const known = Array.from({ length: Math.ceil(this.#hits.length / BLOCK) }, (_, block) => {
      let count = 0;
      for (let at = block * BLOCK; at < Math.min(this.#hits.length, (block + 1) * BLOCK); at += 1) if (this.#hits[at]) count += 1;
      return count;
    });
    this.#layout.lay(this.#hits.length, width, goal, (number) => ratioOf(this.#hits[number]), (block) => known[block] === this.#known[block]);
    this.#known = known;
    this.#list.style.height = this.#hits.length ? `${this.#layout.height}px` : "";
    // What is looked at stays where it is.
    const after = before && this.#layout.rowOf(before.first);
    if (before && after && after.top !== before.top) scrollBy({ top: after.top - before.top, behavior: "instant" });
  }

  #draw() {
    const top = this.#top;
    this.#render(top - AHEAD, top + innerHeight + AHEAD);
  }

  /** @param {number} from @param {number} to */
  #render(from, to) {
    if (!this.#state || !this.#signal) return;
    const kept = new Set(), rows = this.#layout.between(from, to);
    const current = this.#layout.rowOf(this.#current);
    if (current && !rows.some((row) => row.first === current.first)) rows.push({ ...current });
    let printed = 0;
    for (const row of rows) {
      for (let at = 0; at < row.lefts.length && printed < (to === Infinity ? PRINTED : Infinity); at += 1) {
        const number = row.first + at, hit = this.#hits[number];
        if (row === rows.at(-1) && row.first === current?.first && row.top < from - HEIGHT && number !== this.#current) continue;
        kept.add(number);
        printed += 1;
        let item = this.#shown.get(number);
        if (!item || (hit && item.dataset.id !== hit.id)) {
          const made = this.#item(number, hit, this.#state, this.#signal);
          if (item) item.replaceWith(made);
          this.#shown.set(number, item = made);
        }
        item.setAttribute("aria-setsize", String(this.#hits.length));
        const style = item.style;
        style.transform = `translate(${row.lefts[at]}px, ${row.top}px)`;
        style.width = `${row.widths[at]}px`;
        style.height = `${row.height}px`;
      }
    }
    for (const [number, item] of this.#shown) {
      if (kept.has(number)) continue;
      item.remove();
      this.#shown.delete(number);
    }
    // In the order of the results, for those who hear them.
    let next = this.#list.firstElementChild;
    for (const number of [...kept].sort((a, b) => a - b)) {
      const item = this.#shown.get(number);
      if (!item) continue;
      if (item === next) next = next.nextElementSibling;
      else this.#list.insertBefore(item, next);
    }
    const held = this.#tile(this.#current) ?? this.#list.querySelector("a.tile");
    if (held instanceof HTMLAnchorElement) held.tabIndex = 0;
    const awaited = this.#tile(this.#awaited);
    if (awaited) {
      this.#awaited = -1;
      // Unless somebody went elsewhere meanwhile.
      if ([this.#list, document.body].includes(/** @type {HTMLElement} */ (document.activeElement))) awaited.focus({ preventScroll: true });
    }
  }

  /** @param {number} number @param {Hit | undefined} hit @param {State} state @param {AbortSignal} signal */
  #item(number, hit, state, signal) {
    const item = el("li");
    item.setAttribute("aria-posinset", String(number + 1));
    item.dataset.number = String(number);
    if (!hit) return item;
    item.dataset.id = hit.id;
    const on = this.#asks.checked(hit.id);
    item.classList.toggle("on", on);
    item.append(tileOf(hit, state, signal), checkOf(hit, on), ...stackOf(hit));
    return item;
  }

  /** @param {number} number */
  #tile(number) { return this.#shown.get(number)?.querySelector("a") ?? null; }

  /** @param {EventTarget | null} target */
  #numberOf(target) {
    const item = target instanceof Element ? target.closest("li") : null;
    return item?.dataset.number && item.parentElement === this.#list ? Number(item.dataset.number) : -1;
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const number = this.#numberOf(event.target), hit = this.#hits[number];
    if (!hit || !(event.target instanceof Element)) return;
    const button = event.target.closest("button");
    if (button?.className === "check" || (event.shiftKey && !button)) {
      event.preventDefault();
      this.#hold(number);
      this.#asks.check(number, event.shiftKey);
    } else if (button?.className === "stack") this.#asks.stack(hit, button);
    else if (!button && event.target.closest("a.tile") && !opensElsewhere(event)) {
      event.preventDefault();
      this.#asks.open(number);
    }
  }

  /** The tile that the tab key comes to. @param {number} number */
  #hold(number) {
    for (const tile of this.#list.querySelectorAll("a[tabindex='0']")) if (tile instanceof HTMLElement) tile.tabIndex = -1;
    this.#current = number;
    const now = this.#tile(number);
    if (now) now.tabIndex = 0;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const number = this.#numberOf(event.target), hit = this.#hits[number];
    if (event.altKey || event.ctrlKey || event.metaKey || !hit || !(event.target instanceof HTMLAnchorElement)) return;
    if (event.key === " ") { event.preventDefault(); this.#asks.check(number, event.shiftKey); return; }
    if (event.shiftKey) return;
    const stack = this.#shown.get(number)?.querySelector(".stack");
    if (event.key === "c" && stack instanceof HTMLElement) { event.preventDefault(); this.#asks.stack(hit, stack); return; }
    const to = this.#target(event.key, number);
    if (to === null) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(this.#hits.length - 1, to));
    this.#current = next;
    this.scrollTo(next);
    this.focus(next);
    this.fill();
  }

  /** Where a key leads from a tile; null for one that is not of the grid. @param {string} key @param {number} at */
  #target(key, at) {
    if (key === "ArrowRight") return at + 1;
    if (key === "ArrowLeft") return at - 1;
    if (key === "Home") return 0;
    if (key === "End") return this.#hits.length - 1;
    if (key === "ArrowDown" || key === "ArrowUp") return this.#layout.beside(at, key === "ArrowDown" ? 1 : -1);
    const page = key === "PageDown" ? 1 : key === "PageUp" ? -1 : 0;
    if (!page) return null;
    const row = this.#layout.rowOf(at), goal = (row?.top ?? 0) + page * (innerHeight - 200);
    const other = this.#layout.between(goal, goal + 1)[0] ?? this.#layout.between(goal - HEIGHT, goal + HEIGHT)[0];
    return other ? other.first : page > 0 ? this.#hits.length - 1 : 0;
  }
}

/** Width by height; what is not known yet counts as a usual photo. @param {Hit | undefined} hit */
const ratioOf = (hit) => hit?.kind === "text" ? 1.6 : Math.min(2.6, Math.max(0.5, (hit?.width || 4) / (hit?.height || 3)));
