// @ts-check
/** The results of the search that is shown: its pages as they are looked at, never those of another. */

import { asks } from "./address.js";
import { call, owned, Owner, patiently } from "./requests.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./requests.js").ApiError} ApiError */
/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").SearchAnswer & {total: number | null}} SearchAnswer */

const PAGE = 40, LARGEST = 200, BLOCK = 100, AT_ONCE = 3;

/** Whether re-ranking does anything for a search. @param {State} state */
export const reranks = (state) => state.kind === "text" ? Boolean(state.picture && !state.text.trim()) : Boolean(state.text.trim());

export class Results {
  /** As long as all that is known to be there; a list has gaps where nobody has looked yet. @type {(Hit | undefined)[]} */
  hits = [];
  /** @type {SearchAnswer | null} */
  answer = null;
  /** @type {ApiError | null} */
  error = null;
  loading = false;
  busy = false;
  #changed;
  #owner = new Owner();
  /** @type {Record<string, unknown>} */
  #request = {};
  /** Blocks of a list that are on their way. @type {Set<number>} */
  #coming = new Set();
  /** @type {[number, number]} */
  #wanted = [0, 0];

  /** @param {() => void} changed hears of every change, also that something is loading */
  constructor(changed) { this.#changed = changed; }

  /** What belongs to this search ends with it. */
  get signal() { return this.#owner.signal; }

  /** Whether there is another page to load after the last hit. */
  get next() { return this.lists ? null : this.answer?.next ?? null; }

  /** Whether these are all that pass some filters, by date. */
  get lists() { return typeof this.answer?.total === "number"; }

  /** Show nothing. */
  clear() {
    this.#owner.renew();
    this.hits = [];
    this.answer = this.error = null;
    this.loading = this.busy = false;
    this.#coming.clear();
  }

  /**
   * Begin another search; `count` results are wanted at once. A state that asks for nothing lists all that there is.
   * @param {State} state
   * @param {number} [count]
   */
  async search(state, count = PAGE) {
    this.clear();
    /** @type {Record<string, unknown>} */
    const request = {};
    if (state.text.trim()) request.text = state.text;
    if (state.kind) request.kind = state.kind;
    if (state.like) request.image_id = state.like;
    if (state.unlike) request.unlike_id = state.unlike;
    if (state.picture) request.picture = state.picture;
    if (state.region && (state.like || state.picture)) request.region = state.region;
    if (state.rerank && reranks(state)) request.rerank = true;
    if (state.sort || !asks(state)) request.sort = state.sort || "newest";
    this.#request = request;
    await this.#load(Math.min(LARGEST, Math.max(PAGE, count)), null);
    const signal = this.signal;
    while (!signal.aborted && this.next && this.hits.length < count) await this.#load(PAGE, this.next);
  }

  /** Load the next page, unless it comes already or its last try failed. */
  async more() {
    if (!this.loading && !this.error && this.next) await this.#load(PAGE, this.next);
  }

  /** Load what is missing of a list. @param {number} first @param {number} last */
  need(first, last) {
    if (!this.lists) return;
    this.#wanted = [Math.max(0, first), Math.min(this.hits.length, last)];
    this.#fetchBlocks();
  }

  /** Try again what failed. */
  async again() {
    if (!this.error || this.loading) return;
    this.error = null;
    if (this.lists) this.#fetchBlocks();
    else await this.#load(PAGE, this.next);
  }

  #fetchBlocks() {
    const [first, last] = this.#wanted;
    for (let at = Math.floor(first / BLOCK) * BLOCK; at < last; at += BLOCK) {
      if (this.#coming.size >= AT_ONCE || this.error) return;
      const end = Math.min(this.hits.length, at + BLOCK);
      let missing = at;
      while (missing < end && this.hits[missing]) missing += 1;
      if (missing < end && !this.#coming.has(at)) this.#block(at, end);
    }
  }

  /** @param {number} at @param {number} end */
  async #block(at, end) {
    const signal = this.signal;
    this.#coming.add(at);
    await owned(signal, async () => {
      const body = { ...this.#request, k: end - at, offset: at, cursor: this.answer?.next };
      /** @type {SearchAnswer} */
      const answer = await patiently(signal, () => call("/api/search", signal, body));
      answer.hits.forEach((hit, number) => { this.hits[at + number] = hit; });
    }, (error) => { this.error = error; });
    if (signal.aborted) return;
    this.#coming.delete(at);
    this.#changed();
    this.#fetchBlocks();
  }

  /** @param {number} k @param {string | null} cursor */
  async #load(k, cursor) {
    const signal = this.signal;
    this.loading = true;
    this.error = null;
    this.#changed();
    await owned(signal, async () => {
      const body = cursor ? { ...this.#request, k, cursor } : { ...this.#request, k };
      /** @type {SearchAnswer} */
      const answer = await patiently(signal, () => call("/api/search", signal, body), () => { this.busy = true; this.#changed(); });
      this.answer = answer;
      this.hits.push(...answer.hits);
      if (this.lists) this.hits.length = Math.max(this.hits.length, answer.total ?? 0);
    }, (error) => { this.error = error; });
    if (signal.aborted) return;
    this.loading = this.busy = false;
    this.#changed();
  }
}
