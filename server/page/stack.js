// @ts-check
/** The copies of a result, opened at its place in the grid. */

import { format } from "./address.js";
import { el, nameOf, opensElsewhere } from "./dom.js";
import { call, owned } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */

export class Stack {
  #open;
  /** @type {HTMLElement | null} */
  #at = null;
  #box = el("ul", { className: "copies" });

  /** @param {(item: string) => void} open */
  constructor(open) {
    this.#open = open;
    this.#box.addEventListener("keydown", (event) => {
      const links = [...this.#box.querySelectorAll("a")], at = links.findIndex((link) => link === document.activeElement);
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") this.close(true);
      else if (step) links[Math.max(0, Math.min(links.length - 1, at + step))]?.focus();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  /** Open the copies of a result below its mark, or close them. @param {Hit} hit @param {HTMLElement} at @param {import("./address.js").State} state @param {AbortSignal} signal */
  show(hit, at, state, signal) {
    const again = at === this.#at;
    this.close();
    if (again) return;
    this.#at = at;
    at.setAttribute("aria-expanded", "true");
    const tell = (/** @type {string} */ text) => this.#box.replaceChildren(el("li", { textContent: text }));
    tell(texts.searching);
    this.#box.setAttribute("aria-label", texts.copies(hit.copies?.length ?? 0));
    at.closest("li")?.append(this.#box);
    this.#place();
    owned(signal, async () => {
      /** @type {{items: Hit[]}} */
      const { items } = await call(`/api/items/${hit.id}/copies`, signal);
      if (this.#at !== at) return;
      this.#box.replaceChildren(...items.map((item) => {
        const link = el("a", { href: format({ ...state, item: item.id }), title: item.path },
          el("img", { alt: "", src: `${item.thumb_url}?size=256` }), el("bdi", { textContent: nameOf(item) }), el("span", { className: "soft", textContent: item.width ? `${item.width} × ${item.height}` : "" }));
        link.addEventListener("click", (event) => {
          if (opensElsewhere(event)) return;
          event.preventDefault();
          this.#open(item.id);
        });
        return el("li", {}, link);
      }));
      this.#place();
      this.#box.querySelector("a")?.focus({ preventScroll: true });
      this.#box.scrollIntoView({ block: "nearest" });
    }, (error) => tell(texts.failed(error.message)));
  }

  /** As far to the right as the window has room. */
  #place() {
    const left = this.#box.parentElement?.getBoundingClientRect().left ?? 0;
    this.#box.style.left = `${Math.max(8 - left, Math.min(0, document.documentElement.clientWidth - 8 - left - this.#box.offsetWidth))}px`;
  }

  /** @param {boolean} [back] whether the focus goes back to the tile */
  close(back = false) {
    const tile = this.#at?.closest("li")?.querySelector("a.tile");
    this.#at?.setAttribute("aria-expanded", "false");
    this.#box.remove();
    this.#at = null;
    if (back && tile instanceof HTMLElement) tile.focus();
  }
}
