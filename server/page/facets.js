// @ts-check
/** What results can be narrowed down to: dates as a histogram, folders as a tree, places on a map, cameras and kinds, each counted. */

import { byId, el } from "./dom.js";
import { Histogram } from "./histogram.js";
import { replaceFilters, split, write } from "./line.js";
import { WorldMap } from "./map.js";
import { call, owned, Owner } from "./requests.js";
import { said } from "./said.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {Record<string, number>} Counts */
/** @typedef {{years: Counts, months: Counts, folders: Counts, cameras: Counts, places: Counts, kinds: Counts}} All */

const FEW = 8, NARROW = "(max-width: 900px)", FRESH = 60_000, DATES = ["after", "before", "on"];

export class Facets {
  #panel = byId("facets", HTMLDialogElement);
  #button = byId("refine", HTMLButtonElement);
  #body = byId("facet-body", HTMLElement);
  #owner = new Owner();
  /** @type {State | null} */
  #state = null;
  #shown = "";
  /** @type {Promise<All> | null} */
  #every = null;
  #histogram = new Histogram((filters) => this.#change(DATES, filters));
  #map = new WorldMap((near) => this.#change(["near"], near ? [{ name: "near", value: near }] : []));
  /** @type {Set<string>} Folders that are opened, and lists that are shown whole. */
  #opened = new Set();
  #go;

  /** @param {(change: Partial<State>) => void} go */
  constructor(go) {
    this.#go = go;
    this.#button.addEventListener("click", () => { if (this.#panel.open) this.#panel.close(); else this.#open(); });
    byId("facets-close", HTMLButtonElement).addEventListener("click", () => this.#panel.close());
    this.#panel.addEventListener("close", () => this.#told(false));
    this.#panel.addEventListener("click", (event) => { if (event.target === this.#panel && this.#panel.matches(":modal")) this.#panel.close(); });
    matchMedia(NARROW).addEventListener("change", () => { if (this.#panel.open) { this.#panel.close(); } });
    if (localStorage.getItem("mmsearch.refine") === "1" && !matchMedia(NARROW).matches) this.#open();
  }

  /** All values of the index, for suggestions. @returns {Promise<All>} */
  every() {
    if (!this.#every) {
      this.#every = call("/api/facets", new AbortController().signal);
      setTimeout(() => { this.#every = null; }, FRESH);
      this.#every.catch(() => { this.#every = null; });
    }
    return this.#every;
  }

  /** The counts of a search's filters. @param {State} state @returns {Promise<All>} */
  of(state) {
    const asked = String(parameters(state));
    return asked ? call(`/api/facets?${asked}`, new AbortController().signal) : this.every();
  }

  /** Count what the filters of a search leave. @param {State} state */
  show(state) {
    this.#state = state;
    if (this.#panel.open) this.#load();
  }

  #open() {
    if (matchMedia(NARROW).matches) this.#panel.showModal();
    else this.#panel.show();
    this.#told(true);
    this.#load();
  }

  /** @param {boolean} open */
  #told(open) {
    this.#button.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("refined", open);
    if (!matchMedia(NARROW).matches) localStorage.setItem("mmsearch.refine", open ? "1" : "");
  }

  /** @param {string[]} names @param {import("./line.js").Filter[]} filters */
  #change(names, filters) {
    if (this.#state) this.#go({ text: replaceFilters(this.#state.text, names, filters) });
  }

  #load() {
    const state = this.#state;
    if (!state) return;
    const asked = parameters(state);
    if (this.#shown === String(asked)) return;
    const signal = this.#owner.renew();
    owned(signal, async () => {
      /** @type {[All, {points: import("./map.js").Point[]}]} */
      const [all, { points }] = await Promise.all([call(`/api/facets?${asked}`, signal), call(`/api/points?${asked}`, signal)]);
      this.#shown = String(asked);
      this.#show(all, points, state);
    }, (error) => { this.#shown = "-"; this.#body.replaceChildren(el("p", { className: "soft", textContent: said.noFacets(error.message) })); });
  }

  /** @param {All} all @param {import("./map.js").Point[]} points @param {State} state */
  #show(all, points, state) {
    const { filters } = split(state.text), focus = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.facet : undefined;
    const dated = filters.some(({ name }) => DATES.includes(name)), near = filters.some(({ name }) => name === "near");
    const parts = [
      Object.keys(all.months).length || dated ? part(said.dates, this.#histogram.show(all.months, dated)) : null,
      points.length || near ? part(said.places, this.#map.show(points, near), this.#list("near", "places", all.places, filters)) : null,
      Object.keys(all.folders).length ? part(said.folders, this.#tree(all.folders, filters)) : null,
      Object.keys(all.cameras).length ? part(said.cameras, this.#list("camera", "cameras", all.cameras, filters)) : null,
      Object.keys(all.kinds).length ? part(said.kinds, this.#kinds(all.kinds, state)) : null,
    ].filter((one) => one !== null);
    this.#body.replaceChildren(...(parts.length ? parts : [el("p", { className: "soft", textContent: said.nothingLeft })]));
    this.#map.place();
    if (focus) [...this.#body.querySelectorAll("[data-facet]")].find((one) => one instanceof HTMLElement && one.dataset.facet === focus)?.dispatchEvent(new Event("refocus"));
  }

  /** A button that turns a filter on and off. @param {string} name @param {string} value @param {string} label @param {number} count @param {import("./line.js").Filter[]} filters */
  #value(name, value, label, count, filters) {
    const text = write({ name, value }), on = filters.some((one) => write(one) === text);
    return choice(text, label, count, on, () => {
      const others = filters.filter((one) => one.name === name && write(one) !== text && name !== "near");
      this.#change([name], on ? others : [...others, { name, value }]);
    });
  }

  /** @param {string} name @param {string} list @param {Counts} counts @param {import("./line.js").Filter[]} filters */
  #list(name, list, counts, filters) {
    const all = Object.entries(counts), few = this.#opened.has(list) ? all : all.slice(0, FEW);
    const items = few.map(([value, count]) => el("li", {}, this.#value(name, value, value, count, filters)));
    const box = el("ul", { className: "values" }, ...items);
    if (few.length === all.length) return box;
    const more = el("button", { type: "button", className: "more", textContent: said.more });
    more.addEventListener("click", () => {
      this.#opened.add(list);
      const whole = this.#list(name, list, counts, filters);
      box.replaceWith(whole);
      whole.querySelectorAll("button")[FEW]?.focus();
    });
    box.append(el("li", {}, more));
    return box;
  }

  /** @param {Counts} counts @param {import("./line.js").Filter[]} filters */
  #tree(counts, filters) {
    const names = Object.keys(counts).sort((a, b) => a.localeCompare(b));
    const below = (/** @type {string} */ parent) => names.filter((name) => name.slice(0, name.lastIndexOf("/") + 1) === parent);
    /** @param {string} parent @returns {HTMLUListElement} */
    const level = (parent) => el("ul", { className: "values" }, ...below(parent).map((path) => {
      const name = path.slice(parent.length), row = el("span", { className: "row" }), item = el("li", {}, row);
      if (names.some((one) => one.startsWith(`${path}/`))) {
        const toggle = el("button", { type: "button", className: "toggle", textContent: "▸" });
        const turn = (/** @type {boolean} */ open) => {
          toggle.setAttribute("aria-expanded", String(open));
          item.querySelector(":scope > ul")?.remove();
          if (open) { item.append(level(`${path}/`)); this.#opened.add(path); }
          else this.#opened.delete(path);
        };
        toggle.setAttribute("aria-label", said.inside(name));
        toggle.addEventListener("click", () => turn(toggle.getAttribute("aria-expanded") !== "true"));
        row.append(toggle);
        turn(this.#opened.has(path) || below("").length === 1);
      }
      row.append(this.#value("in", path, name, counts[path] ?? 0, filters));
      return item;
    }));
    return level("");
  }

  /** @param {Counts} counts @param {State} state */
  #kinds(counts, state) {
    return el("ul", { className: "values" }, ...Object.entries(counts).map(([kind, count]) => el("li", {},
      choice(`kind ${kind}`, said.kind[kind] ?? kind, count, state.kind === kind, () => this.#go({ kind: state.kind === kind ? "" : kind })))));
  }
}

/** @param {State} state */
function parameters(state) {
  const asked = new URLSearchParams();
  if (state.text.trim()) asked.set("text", state.text);
  if (state.kind) asked.set("kind", state.kind);
  return asked;
}

/** @param {string} title @param {...Node} nodes */
function part(title, ...nodes) {
  return el("section", {}, el("h3", { textContent: title }), ...nodes);
}

/** @param {string} key @param {string} label @param {number} count @param {boolean} on @param {() => void} act */
function choice(key, label, count, on, act) {
  const button = el("button", { type: "button", className: "choice" }, el("bdi", { textContent: label }), el("span", { className: "count", textContent: said.number(count) }));
  button.dataset.facet = key;
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", said.named(label, count));
  button.addEventListener("click", act);
  button.addEventListener("refocus", () => button.focus({ preventScroll: true }));
  return button;
}
