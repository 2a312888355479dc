// @ts-check
/** An answer to a question, with what it rests on. */

import { byId, el, nameOf, opensElsewhere, times } from "./dom.js";
import { format, NOTHING } from "./address.js";
import { call, owned, Owner, patiently } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit & {caption: string}} Evidence */

export class Answers {
  #box = byId("answer", HTMLElement);
  #owner = new Owner();
  #open;

  /** @param {(item: string) => void} open */
  constructor(open) { this.#open = open; }

  /** Take the answer away, and do not wait for it any more. */
  clear() {
    this.#owner.renew();
    this.#box.hidden = true;
    this.#box.replaceChildren();
  }

  /** @param {string} question */
  ask(question) {
    const signal = this.#owner.renew();
    const tell = (/** @type {string} */ text) => this.#box.replaceChildren(el("p", { textContent: text }));
    this.#box.hidden = false;
    tell(texts.asking);
    owned(signal, async () => {
      /** @type {{answer: string, evidence: Evidence[]}} */
      const answer = await patiently(signal, () => call("/api/ask", signal, { question }), () => tell(texts.busy));
      this.#box.replaceChildren(el("p", { dir: "auto", textContent: answer.answer }), el("ol", {}, ...answer.evidence.map((hit) => {
        const link = el("a", { href: format({ ...NOTHING, item: hit.id }), dir: "auto", textContent: [nameOf(hit), times(hit)].filter(Boolean).join(" ") });
        link.addEventListener("click", (event) => {
          if (opensElsewhere(event)) return;
          event.preventDefault();
          this.#open(hit.id);
        });
        return el("li", {}, link);
      })));
    }, (error) => tell(error.message));
  }
}
