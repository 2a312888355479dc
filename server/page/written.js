// @ts-check
/** What is written about a file: its captions, the text that was recognised in it, and of a video the transcript, each line of
 * which is a link to its time. */

import { byId, clock, el, opensElsewhere } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").HeldFile} HeldFile */

export class Written {
  #box = byId("written", HTMLElement);
  /** @type {{start: number, end: number, link: HTMLElement}[]} */
  #lines = [];
  /** @type {HTMLElement | null} */
  #list = null;

  clear() {
    this.#lines = [];
    this.#list = null;
    this.#box.replaceChildren();
  }

  /**
   * @param {Hit} hit what is open; of a text, its own line is marked
   * @param {HeldFile} file
   * @param {(start: number, end: number) => void} seek
   */
  show(hit, file, seek) {
    this.clear();
    /** @type {[string, string[]][]} */
    const groups = [[texts.captions, ["caption"]], [texts.recognised, ["ocr"]]];
    for (const [title, kinds] of groups) {
      const found = file.texts.filter((text) => text.start === null && kinds.includes(text.text_kind ?? "caption"));
      if (found.length) this.#box.append(el("h3", { textContent: title }), ...found.map((text) => el("p", { className: "passage", dir: "auto", textContent: text.text })));
    }
    const cues = file.texts.filter((text) => text.start !== null && text.end !== null);
    if (file.kind !== "video" || !cues.length) return;
    const list = el("ol", { className: "transcript" }, ...cues.map((text) => {
      const start = text.start ?? 0, end = text.end ?? start;
      const link = el("a", { href: `${hit.media_url}#t=${start}`, className: text.text_kind === "chapter" ? "chapter" : "" },
        el("span", { className: "soft", textContent: clock(start) }), " ", el("span", { dir: "auto", textContent: text.text }));
      if (text.id === hit.id) link.setAttribute("aria-current", "true");
      link.addEventListener("click", (event) => {
        if (opensElsewhere(event)) return;
        event.preventDefault();
        seek(start, end);
      });
      this.#lines.push({ start, end, link });
      return el("li", {}, link);
    }));
    this.#box.append(el("h3", { textContent: texts.transcript }), list);
    this.#list = list;
    this.#follow();
  }

  /** Mark the lines of a time of the video. @param {number} time */
  at(time) {
    let changed = false;
    for (const { start, end, link } of this.#lines) {
      const now = time >= start && time < end;
      if (now === link.hasAttribute("aria-current")) continue;
      changed = true;
      if (now) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (changed) this.#follow();
  }

  /** The line that is said now is seen, and nothing but the list moves for it; not while somebody reads elsewhere in it. */
  #follow() {
    const list = this.#list, line = list?.querySelector("[aria-current]");
    if (!list || !(line instanceof HTMLElement) || list.matches(":hover, :focus-within")) return;
    if (line.offsetTop < list.scrollTop || line.offsetTop + line.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = line.offsetTop - list.clientHeight / 3;
  }
}
