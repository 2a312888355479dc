// @ts-check
/** The page of copies: groups of them side by side, to look through. */

import { byId, el, nameOf, opensElsewhere } from "./dom.js";
import { format } from "./address.js";
import { call, owned } from "./requests.js";
import { said } from "./said.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit & {size?: number}} Hit */

/**
 * Show the groups, more of them as somebody comes to their end.
 * @param {AbortSignal} signal
 * @param {import("./address.js").Address} address
 */
export function showDuplicates(signal, address) {
  const list = byId("duplicates", HTMLElement), end = el("p", { className: "soft", textContent: texts.searching });
  list.replaceChildren(el("p", { className: "soft", textContent: said.duplicates }), end);
  /** @type {string | null} */
  let next = "", coming = false;
  const more = () => {
    if (coming || next === null) return;
    coming = true;
    owned(signal, async () => {
      /** @type {{groups: {kind: string, items: Hit[]}[], next: string | null}} */
      const answer = await call(`/api/duplicates${next ? `?cursor=${next}` : ""}`, signal);
      for (const group of answer.groups) end.before(groupOf(group, address));
      next = answer.next;
      end.textContent = next !== null ? texts.searching : list.querySelector("section") ? "" : said.noDuplicates;
      coming = false;
      if (next !== null && end.getBoundingClientRect().top < 2 * innerHeight) more();
    }, (error) => { end.textContent = texts.failed(error.message); });
  };
  const watch = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) more(); }, { rootMargin: "800px" });
  watch.observe(end);
  signal.addEventListener("abort", () => { watch.disconnect(); list.replaceChildren(); }, { once: true });
}

/** @param {{kind: string, items: Hit[]}} group @param {import("./address.js").Address} address */
function groupOf({ kind, items }, address) {
  return el("section", {}, el("h2", { textContent: said.sameKind[kind] ?? kind }), el("ul", {}, ...items.map((item) => {
    const link = el("a", { href: format({ ...address.state, item: item.id }), title: item.path }, el("img", { alt: "", loading: "lazy", src: `${item.thumb_url}?size=384` }), el("bdi", { textContent: nameOf(item) }));
    link.addEventListener("click", (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      address.open(item.id);
    });
    const facts = [item.width ? `${item.width} × ${item.height}` : "", item.size ? said.bytes(item.size) : "", folderOf(item.path)].filter(Boolean);
    return el("li", {}, link, el("span", { className: "soft", dir: "auto", textContent: facts.join(" · ") }));
  })));
}

/** @param {string} path */
const folderOf = (path) => path.split(/[\\/]/).slice(-3, -1).join("/");
