// @ts-check
/** A question and its answer, a view of its own, with the pictures that the answer rests on. */

import { byId, el, nameOf, opensElsewhere, times } from "./dom.js";
import { format, NOTHING } from "./address.js";
import { smallThumb } from "./grid.js";
import { showImage } from "./images.js";
import { call, owned, Owner, patiently } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {{answer: string, evidence: (Hit & {caption: string})[]}} Answer */

export class Answers {
  #box = byId("answer", HTMLElement);
  #again = byId("again", HTMLButtonElement);
  #owner = new Owner();
  #acts;
  #question = "";
  /** So that the way back to an answer is at once. @type {Map<string, Answer>} */
  #known = new Map();
  /** @type {Hit[]} */
  evidence = [];

  /** @param {{open: (item: string) => void, search: (words: string) => void, changed: () => void}} acts */
  constructor(acts) { this.#acts = acts; }

  /** Take the answer away, and do not wait for it any more. */
  clear() {
    this.#owner.renew();
    this.evidence = [];
    this.#question = "";
    this.#box.hidden = true;
    this.#box.replaceChildren();
  }

  /** Ask again what failed. */
  again() { this.ask(this.#question, true); }

  /** Focus the picture of this number. @param {number} number */
  focus(number) { this.#box.querySelectorAll("a")[number]?.focus(); }

  /** @param {string} question @param {boolean} [anew] whether an answer that is known will not do */
  ask(question, anew = false) {
    const signal = this.#owner.renew();
    const heading = el("h2", { dir: "auto", textContent: question }), said = el("p", { dir: "auto", textContent: texts.asking });
    this.evidence = [];
    this.#question = question;
    this.#again.hidden = true;
    this.#box.replaceChildren(heading, said);
    this.#box.hidden = false;
    owned(signal, async () => {
      const known = anew ? undefined : this.#known.get(question);
      /** @type {Answer} */
      const answer = known ?? await patiently(signal, () => call("/api/ask", signal, { question }), () => { said.textContent = texts.busy; });
      this.#known.set(question, answer);
      this.#show(answer, said, signal);
      this.#acts.changed();
    }, (error) => {
      said.textContent = texts.failed(error.message);
      this.#again.hidden = !error.passing;
    });
  }

  /** @param {Answer} answer @param {HTMLElement} said @param {AbortSignal} signal */
  #show(answer, said, signal) {
    this.evidence = answer.evidence.map((hit) => ({ ...hit, kind: hit.start === null ? "image" : "video", text: null, width: null, height: null }));
    if (!this.evidence.length) {
      said.textContent = texts.nothingFits;
      const search = el("a", { href: format({ ...NOTHING, text: this.#question }), textContent: texts.searchInstead(this.#question) });
      search.addEventListener("click", (event) => {
        if (opensElsewhere(event)) return;
        event.preventDefault();
        this.#acts.search(this.#question);
      });
      said.append(" ", search);
      return;
    }
    said.textContent = answer.answer;
    this.#box.append(el("p", { className: "soft", textContent: texts.evidence(this.evidence.length) }), el("ol", { className: "evidence" }, ...this.evidence.map((hit, number) => {
      const caption = answer.evidence[number]?.caption ?? "", name = [nameOf(hit), times(hit)].filter(Boolean).join(" ");
      const image = el("img", { alt: "" });
      showImage(image, smallThumb(hit), signal, (why) => image.replaceWith(el("span", { className: "gone", textContent: why || texts.unseen(nameOf(hit)) })));
      const link = el("a", { href: format({ ...NOTHING, ask: this.#question, item: hit.id }) }, image,
        el("span", { dir: "auto", textContent: `[${number + 1}] ${caption}` }), el("span", { className: "soft", dir: "auto", textContent: name }));
      link.addEventListener("click", (event) => {
        if (opensElsewhere(event)) return;
        event.preventDefault();
        this.#acts.open(hit.id);
      });
      return el("li", {}, link);
    })));
  }
}
