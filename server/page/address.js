// @ts-check
/** The search is in the address, and each entry of the history remembers where its grid was. */

/**
 * `like`, `unlike` and `item` are ids of the index, `picture` is the hash of an uploaded picture, `region` the part that is meant of
 * what results shall be like, `ask` a question, which is a view of its own, `sort` an order by date, and `view` a page other than the
 * search; all of them may be empty. `opened` counts the steps of the history since the first item was opened.
 * @typedef {{text: string, kind: string, like: string, unlike: string, picture: string, region: string, rerank: boolean, ask: string,
 *   sort: string, view: string,
 *   item: string}} State
 * @typedef {{count: number, top: number}} Place
 * @typedef {{opened?: number, refining?: boolean, place?: Place}} Entry
 */

const KINDS = ["", "image", "video", "text"];
const SORTS = ["", "newest", "oldest"], VIEWS = ["", "duplicates"];
const ID = /^[\w-]{0,64}$/;
const HASH = /^[0-9a-f]{64}$/;
const REGION = /^(0|1|0?\.\d{1,6}|1\.0{1,6})(,(0|1|0?\.\d{1,6}|1\.0{1,6})){3}$/;

/** @type {State} */
export const NOTHING = { text: "", kind: "", like: "", unlike: "", picture: "", region: "", rerank: false, ask: "", sort: "", view: "", item: "" };

/**
 * What an address says; what makes no sense in it counts as absent.
 * @param {string} query
 * @returns {State}
 */
export function parse(query) {
  const values = new URLSearchParams(query);
  const id = (/** @type {string} */ name) => (ID.test(values.get(name) || "") ? values.get(name) || "" : "");
  const one = (/** @type {string} */ name, /** @type {string[]} */ of) => of.find((value) => value === values.get(name)) ?? "";
  const picture = values.get("picture") || "", region = values.get("region") || "";
  return {
    text: values.get("q") || "",
    kind: one("kind", KINDS),
    like: id("like"),
    unlike: id("unlike"),
    picture: HASH.test(picture) ? picture : "",
    region: REGION.test(region) ? region : "",
    rerank: values.get("rerank") === "1",
    sort: one("sort", SORTS),
    view: one("view", VIEWS),
    ask: values.get("ask") || "",
    item: id("item"),
  };
}

/** The address of a state. @param {State} state */
export function format(state) {
  const values = new URLSearchParams();
  if (state.ask) values.set("ask", state.ask);
  if (state.text) values.set("q", state.text);
  for (const name of /** @type {const} */ (["kind", "like", "unlike", "picture", "sort", "view"])) if (state[name]) values.set(name, state[name]);
  if (state.region && (state.like || state.picture)) values.set("region", state.region);
  if (state.rerank) values.set("rerank", "1");
  if (state.item) values.set("item", state.item);
  return values.size ? `/?${values}` : "/";
}

/** Whether two states are the same search, whatever item is open. @param {State} a @param {State} b */
export const sameSearch = (a, b) => format({ ...a, item: "" }) === format({ ...b, item: "" });

/** Whether there is anything to search for. @param {State} state */
export const asks = (state) => Boolean(state.text.trim() || state.like || state.picture);

// Milliseconds after which a step back in the history does not come any more: the browser has called it off.
const PATIENCE = 1500;

/** The one place that touches the history. */
export class Address {
  state = parse(location.search);
  #changed;
  #place;
  #leaving = false;
  #overdue = 0;
  /** @type {(() => void)[]} */
  #later = [];

  /**
   * @param {(before: State, again: boolean) => void} changed hears every change, with `again` where the same search was sent anew
   * @param {() => Place} place where the grid is now
   */
  constructor(changed, place) {
    this.#changed = changed;
    this.#place = place;
    history.scrollRestoration = "manual";
    addEventListener("popstate", () => {
      this.#left();
      this.#take(parse(location.search));
      for (const act of this.#later.splice(0)) act();
    });
  }

  /** What this entry of the history remembers. @returns {Entry} */
  get entry() { return history.state || {}; }

  /**
   * Go to another search. With `refining`, several changes in a row are one entry of the history.
   * @param {Partial<State>} change
   * @param {boolean} [refining]
   */
  go(change, refining = false) {
    if (this.#leaving) { this.#later.push(() => this.go(change, refining)); return; }
    // A part is one of a picture, and goes with it; and whoever searches asks no more.
    const apart = "like" in change || "picture" in change ? { region: "" } : {};
    const next = { ...this.state, item: "", ask: "", ...apart, ...change };
    if (format(next) === format(this.state)) { this.#take(next, true); return; }
    this.remember();
    if (refining && this.entry.refining) history.replaceState({ refining }, "", format(next));
    else history.pushState({ refining }, "", format(next));
    this.#take(next);
  }

  /**
   * Open an item; the next one takes its place in the history, unless the way back shall lead over this one.
   * @param {string} item
   * @param {boolean} [further]
   */
  open(item, further = false) {
    if (this.#leaving) { this.#later.push(() => this.open(item, further)); return; }
    const next = { ...this.state, item };
    if (item === this.state.item) return;
    if (this.state.item && !further) history.replaceState(this.entry, "", format(next));
    else {
      // An address that was opened from outside has nothing of ours before it.
      const steps = this.state.item && !this.entry.opened ? 0 : (this.entry.opened ?? 0) + 1;
      this.remember();
      history.pushState({ opened: steps, place: this.entry.place }, "", format(next));
    }
    this.#take(next);
  }

  /** Close the item that is open: what opening it added to the history is gone again. */
  close() {
    if (this.#leaving || !this.state.item) return;
    if (!this.entry.opened) { this.#closeHere(); return; }
    this.#leaving = true;
    this.#overdue = setTimeout(() => {
      this.#left();
      this.#closeHere();
      for (const act of this.#later.splice(0)) act();
    }, PATIENCE);
    history.go(-this.entry.opened);
  }

  /** Close the item without a step back. */
  #closeHere() {
    const next = { ...this.state, item: "" };
    history.replaceState({ ...this.entry, opened: 0 }, "", format(next));
    this.#take(next);
  }

  #left() {
    this.#leaving = false;
    clearTimeout(this.#overdue);
  }

  /** Keep in this entry where the grid is. */
  remember() {
    if (!this.#leaving) history.replaceState({ ...this.entry, place: this.#place() }, "");
  }

  /** @param {State} next @param {boolean} [again] */
  #take(next, again = false) {
    const before = this.state;
    this.state = next;
    this.#changed(before, again);
  }
}
