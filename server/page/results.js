// @ts-check
/** The results of the search that is shown: its pages one after the other, never those of another. */

import { call, owned, Owner, patiently } from "./requests.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./requests.js").ApiError} ApiError */
/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").SearchAnswer} SearchAnswer */

const PAGE = 40, LARGEST = 200;

/** Whether re-ranking does anything for a search. @param {State} state */
export const reranks = (state) => state.kind === "text" ? Boolean(state.picture && !state.text.trim()) : Boolean(state.text.trim());

export class Results {
  /** @type {Hit[]} */
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

  /** @param {() => void} changed hears of every change, also that something is loading */
  constructor(changed) { this.#changed = changed; }

  /** What belongs to this search ends with it. */
  get signal() { return this.#owner.signal; }

  /** Whether there is another page to load. */
  get next() { return this.answer?.next ?? null; }

  /** Show nothing. */
  clear() {
    this.#owner.renew();
    this.hits = [];
    this.answer = this.error = null;
    this.loading = this.busy = false;
  }

  /**
   * Begin another search; `count` results are wanted at once.
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
    this.#request = request;
    await this.#load(Math.min(LARGEST, Math.max(PAGE, count)), null);
    const signal = this.signal;
    while (!signal.aborted && this.next && this.hits.length < count) await this.#load(PAGE, this.next);
  }

  /** Load the next page, unless it comes already or its last try failed. */
  async more() {
    if (!this.loading && !this.error && this.next) await this.#load(PAGE, this.next);
  }

  /** Try again what failed. */
  async again() {
    if (this.error && !this.loading) await this.#load(PAGE, this.next);
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
    }, (error) => { this.error = error; });
    if (signal.aborted) return;
    this.loading = this.busy = false;
    this.#changed();
  }
}
