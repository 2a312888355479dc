// @ts-check
/** What may be meant by the words that are typed: filters, their values in this index, and searches of this browser. */

import { byId, el } from "./dom.js";
import { FILTERS, write } from "./line.js";
import { said } from "./said.js";
import * as searches from "./searches.js";

/** @typedef {import("./facets.js").All} All */
/** @typedef {import("./line.js").Filter} Filter */
/** @typedef {{text: string, note: string, act: () => void}} Option */

const MOST = 8;
/** @type {(keyof All)[]} */
const LISTS = ["cameras", "places", "folders"];
/** @type {Record<string, string>} */
const NAMES = { cameras: "camera", places: "near", folders: "in", years: "on", kinds: "kind" };
const plain = (/** @type {string} */ text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

export class Completion {
  #list = byId("suggestions", HTMLElement);
  #box;
  #every;
  #go;
  /** @type {Option[]} */
  #options = [];
  #active = -1;
  #asked = 0;

  /**
   * @param {import("./chips.js").Box} box
   * @param {() => Promise<All>} every all values of the index
   * @param {(address: string) => void} go
   */
  constructor(box, every, go) {
    this.#box = box;
    this.#every = every;
    this.#go = go;
    const words = box.words;
    words.addEventListener("input", () => this.#ask());
    words.addEventListener("click", () => { if (!words.value) this.#ask(); });
    words.addEventListener("blur", () => this.close());
    words.form?.addEventListener("submit", () => this.close());
    // Before the page's own keys: an arrow that moves here moves nothing else.
    words.addEventListener("keydown", (event) => this.#key(event), { capture: true });
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#list.addEventListener("click", (event) => {
      const item = event.target instanceof Element ? event.target.closest("li") : null;
      if (item) this.#take([...this.#list.children].indexOf(item));
    });
  }

  get open() { return !this.#list.hidden; }

  close() {
    this.#asked += 1;
    this.#list.hidden = true;
    this.#options = [];
    this.#set(-1);
    this.#box.words.setAttribute("aria-expanded", "false");
  }

  async #ask() {
    const asked = this.#asked += 1, words = this.#box.words;
    const all = await this.#every().catch(() => null);
    if (asked !== this.#asked || document.activeElement !== words) return;
    this.#options = this.#find(words.value, words.selectionEnd ?? words.value.length, all).slice(0, MOST);
    this.#active = -1;
    this.#list.replaceChildren(...this.#options.map(({ text, note }, number) => {
      const item = el("li", { id: `suggestion-${number}`, role: "option" }, el("bdi", { textContent: text }), el("span", { className: "soft", textContent: note }));
      item.setAttribute("aria-selected", "false");
      return item;
    }));
    this.#list.hidden = !this.#options.length;
    words.setAttribute("aria-expanded", String(!this.#list.hidden));
    words.removeAttribute("aria-activedescendant");
  }

  /** @param {string} value @param {number} at where the cursor is @param {All | null} all @returns {Option[]} */
  #find(value, at, all) {
    // The words up to the cursor, and the one that is being typed, which may begin with a quote after a filter's name.
    const before = value.slice(0, at), [token = ""] = /(?:[A-Za-z]+:["“„«][^"”»]*|\S*)$/.exec(before) ?? [];
    const named = /^([A-Za-z]+):["“„«]?(.*)$/.exec(token), name = named?.[1]?.toLowerCase() ?? "";
    const put = (/** @type {string} */ text) => {
      const rest = before.slice(0, before.length - token.length) + text;
      this.#box.words.value = rest + value.slice(at);
      this.#box.words.setSelectionRange(rest.length, rest.length);
    };
    /** @param {string} filter @param {string} chosen @param {number} count @returns {Option} */
    const filter = (filter, chosen, count) => ({ text: write({ name: filter, value: chosen }), note: count ? said.photos(count) : "",
      act: () => { put(""); this.#box.add({ name: filter, value: chosen }); this.#box.words.dispatchEvent(new Event("change")); } });
    if (FILTERS.includes(name)) {
      const typed = plain(named?.[2] ?? "");
      return valuesOf(name, all).filter(([one]) => plain(one).includes(typed)).sort(([a], [b]) => Number(plain(b).startsWith(typed)) - Number(plain(a).startsWith(typed)))
        .map(([one, count]) => filter(name, one, count));
    }
    const typed = plain(token), whole = plain(value.trim());
    /** @type {Option[]} */
    const options = [];
    if (token) for (const one of FILTERS) {
      if (one.startsWith(typed)) options.push({ text: `${one}:`, note: said.filters[one] ?? "", act: () => { put(`${one}:`); this.#ask(); } });
    }
    if (token.length > 1) for (const list of LISTS) {
      const found = Object.entries(all?.[list] ?? {}).filter(([one]) => plain(one).split(/[^\p{L}\p{N}]+/u).some((word) => word.startsWith(typed)));
      options.push(...found.slice(0, 3).map(([one, count]) => filter(NAMES[list] ?? "", valueOf(list, one), count)));
    }
    const known = new Set();
    for (const [list, note] of /** @type {[string[], string][]} */ ([[searches.saved(), said.saved], [searches.recent(), said.recent]])) {
      for (const address of list) {
        const text = searches.lineOf(address);
        if (known.has(address) || !plain(text).includes(whole) || plain(text) === whole) continue;
        known.add(address);
        options.push({ text, note, act: () => this.#go(address) });
      }
    }
    return options;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing) return;
    const stop = () => { event.preventDefault(); event.stopPropagation(); };
    if (event.key === "ArrowDown" && !this.open && !this.#box.words.value && !document.querySelector("#grid a")) { stop(); this.#ask(); return; }
    if (!this.open) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      stop();
      const count = this.#options.length + 1;
      this.#set((this.#active + 1 + (event.key === "ArrowDown" ? 1 : -1) + count) % count - 1);
    } else if (event.key === "Enter" && this.#active >= 0) { stop(); this.#take(this.#active); }
    else if (event.key === "Escape") { stop(); this.close(); }
  }

  /** @param {number} number */
  #set(number) {
    this.#active = number;
    [...this.#list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === number)));
    const words = this.#box.words, item = this.#list.children[number];
    if (item) words.setAttribute("aria-activedescendant", item.id);
    else words.removeAttribute("aria-activedescendant");
    item?.scrollIntoView({ block: "nearest" });
  }

  /** @param {number} number */
  #take(number) {
    const option = this.#options[number];
    this.close();
    option?.act();
  }
}

/** The name of a place without its region and country, by which a search finds it. @param {string} list @param {string} value */
const valueOf = (list, value) => (list === "places" ? (value.split(",")[0] ?? value).trim() : value);

/** What a filter may say, with how many items there are of it. @param {string} name @param {All | null} all @returns {[string, number][]} */
function valuesOf(name, all) {
  if (name === "rating") return ["5", "4", "3", "2", "1"].map((one) => [one, 0]);
  // A script has names that are numbers in their own order.
  if (["after", "before", "on"].includes(name)) return [...Object.entries(all?.years ?? {}).reverse(), ...Object.entries(all?.months ?? {})];
  const list = /** @type {keyof All | undefined} */ (Object.keys(NAMES).find((one) => NAMES[one] === name));
  /** @type {Map<string, number>} */
  const values = new Map();
  for (const [one, count] of Object.entries((list && all?.[list]) || {})) {
    const value = valueOf(list ?? "", one);
    values.set(value, (values.get(value) ?? 0) + count);
  }
  return [...values];
}
