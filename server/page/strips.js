// @ts-check
/** Rows of small pictures under the one that is open: similar ones, and what was taken on the same day at the same place. */

import { format, NOTHING } from "./address.js";
import { byId, el, nameOf, opensElsewhere } from "./dom.js";
import { dayOf, nearOf, searchLink } from "./facts.js";
import { showImage } from "./images.js";
import { call, patiently } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */

const COUNT = 16, SMALL = 256;

export class Strips {
  #box = byId("strips", HTMLElement);
  #acts;

  /** @param {{open: (hit: Hit) => void, like: (id: string) => void, search: (line: string) => void}} acts */
  constructor(acts) { this.#acts = acts; }

  clear() { this.#box.replaceChildren(); }

  /**
   * Show what there is; nothing is told of what fails, since nobody asked for it. Throws once the signal is aborted.
   * @param {Hit} hit with all that is known of it
   * @param {AbortSignal} signal
   */
  async show(hit, signal) {
    const like = el("a", { href: format({ ...NOTHING, like: hit.id }), textContent: texts.similar });
    like.addEventListener("click", (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      this.#acts.like(hit.id);
    });
    const day = dayOf(hit), near = nearOf(hit, 2), line = [day && `on:${day}`, near].filter(Boolean).join(" ");
    const label = day && near ? texts.sameDayPlace : day ? texts.sameDay : texts.samePlace;
    await Promise.all([
      this.#strip({ image_id: hit.id }, like, hit, signal),
      line ? this.#strip({ text: line }, searchLink(line, label, this.#acts.search), hit, signal) : null,
    ]);
  }

  /** @param {object} asked @param {HTMLAnchorElement} title @param {Hit} hit @param {AbortSignal} signal */
  async #strip(asked, title, hit, signal) {
    const section = el("section", { hidden: true });
    this.#box.append(section);
    /** @type {Hit[]} */
    let hits = [];
    try {
      hits = (await patiently(signal, () => call("/api/search", signal, { ...asked, k: COUNT }))).hits;
    } catch {
      signal.throwIfAborted();
    }
    const others = hits.filter((other) => other.id !== hit.id && other.path !== hit.path);
    if (!others.length) { section.remove(); return; }
    const list = el("ul", { className: "strip" }, ...others.map((other) => {
      const image = el("img", { alt: "", loading: "lazy", decoding: "async" }), name = nameOf(other);
      showImage(image, `${other.thumb_url}?size=${SMALL}`, signal, () => link.parentElement?.remove());
      const link = el("a", { href: format({ ...NOTHING, item: other.id }), title: name }, image);
      link.setAttribute("aria-label", name);
      link.addEventListener("click", (event) => {
        if (opensElsewhere(event)) return;
        event.preventDefault();
        this.#acts.open(other);
      });
      return el("li", {}, link);
    }));
    section.append(el("h3", {}, title), list);
    section.hidden = false;
  }
}
