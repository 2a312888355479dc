// @ts-check
/** Results that are selected, and what can be done with all of them. */

import { byId, el, nameOf } from "./dom.js";
import { call, fetchBlob, owned, Owner, patiently } from "./requests.js";
import { said } from "./said.js";

/** @typedef {import("./requests.js").Hit} Hit */

export class Selection {
  /** @type {Map<string, Hit>} */
  #chosen = new Map();
  #last = -1;
  #hits;
  #changed;
  #owner = new Owner();
  #bar = byId("selection", HTMLElement);
  #count = byId("selected", HTMLElement);
  #cancel = byId("cancel", HTMLButtonElement);
  #progress = byId("selection-progress", HTMLProgressElement);
  #captions = byId("captions", HTMLElement);

  /**
   * @param {() => (Hit | undefined)[]} hits the results that are shown
   * @param {() => void} changed
   */
  constructor(hits, changed) {
    this.#hits = hits;
    this.#changed = changed;
    const on = (/** @type {string} */ id, /** @type {() => void} */ act) => byId(id, HTMLButtonElement).addEventListener("click", act);
    on("select-all", () => this.all());
    on("select-none", () => this.clear());
    on("copy-paths", () => this.#copy());
    on("describe-all", () => this.#describe());
    on("save-zip", () => this.#archive());
    for (const form of ["csv", "json", "html"]) on(`save-${form}`, () => this.#save(form));
    on("cancel", () => this.#end(said.selected(this.#chosen.size)));
  }

  get size() { return this.#chosen.size; }

  /** @param {string} id */
  has(id) { return this.#chosen.has(id); }

  /** Select one result or no longer; with `range`, all from the one before to it. @param {number} number @param {boolean} range */
  check(number, range) {
    const hit = this.#hits()[number];
    if (!hit) return;
    if (range && this.#last >= 0) {
      const [from, to] = [Math.min(this.#last, number), Math.max(this.#last, number)];
      for (const one of this.#hits().slice(from, to + 1)) if (one) this.#chosen.set(one.id, one);
    } else if (!this.#chosen.delete(hit.id)) this.#chosen.set(hit.id, hit);
    this.#last = number;
    this.#show();
  }

  /** Select all that has come so far. */
  all() {
    for (const hit of this.#hits()) if (hit) this.#chosen.set(hit.id, hit);
    this.#show();
  }

  clear() {
    if (!this.#chosen.size && this.#bar.hidden) return;
    this.#chosen.clear();
    this.#last = -1;
    this.#owner.end();
    this.#captions.hidden = true;
    this.#captions.replaceChildren();
    this.#show();
  }

  #show() {
    const count = this.#chosen.size, held = this.#bar.contains(document.activeElement);
    this.#end(said.selected(count));
    this.#bar.hidden = !count;
    document.body.classList.toggle("selecting", count > 0);
    if (!count && held) byId("grid", HTMLElement).focus({ preventScroll: true });
    this.#changed();
  }

  async #copy() {
    const paths = [...this.#chosen.values()].map(({ path }) => path);
    try {
      await navigator.clipboard.writeText(paths.join("\n"));
      this.#count.textContent = said.pathsCopied(paths.length);
    } catch (error) {
      this.#count.textContent = said.failed(error instanceof Error ? error.message : String(error));
    }
  }

  /** The files themselves may be more than a script can hold: the browser saves them as they come. */
  #archive() {
    const form = el("form", { method: "post", action: "/api/selection/zip", target: "_blank", hidden: true },
      ...[...this.#chosen.keys()].map((id) => el("input", { type: "hidden", name: "ids", value: id })));
    document.body.append(form);
    form.submit();
    form.remove();
  }

  /** @param {string} form what comes back, by its suffix */
  #save(form) {
    const signal = this.#owner.renew(), ids = [...this.#chosen.keys()];
    this.#count.textContent = said.saving;
    owned(signal, async () => {
      const blob = await fetchBlob(`/api/selection/${form}`, signal, { ids });
      const link = el("a", { href: URL.createObjectURL(blob), download: `selection.${form}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.#count.textContent = said.selected(ids.length);
    }, (error) => { this.#count.textContent = said.failed(error.message); });
  }

  /** Describe one after the other; what is there stays when it is called off. */
  #describe() {
    const hits = [...this.#chosen.values()].filter(({ kind }) => kind !== "text"), signal = this.#owner.renew();
    const list = el("ol");
    this.#captions.replaceChildren(list);
    this.#captions.hidden = false;
    this.#progress.max = hits.length;
    this.#progress.hidden = this.#cancel.hidden = false;
    let done = 0;
    const step = async () => {
      for (const hit of hits) {
        this.#progress.value = done;
        this.#count.textContent = said.described(done, hits.length);
        const { caption } = await patiently(signal, () => call("/api/describe", signal, { id: hit.id }));
        signal.throwIfAborted();
        list.append(el("li", {}, el("b", { textContent: nameOf(hit), dir: "auto" }), " ", el("span", { textContent: caption, dir: "auto" })));
        done += 1;
      }
      this.#end(said.described(done, hits.length));
    };
    owned(signal, step, (error) => this.#end(said.failed(error.message)));
  }

  /** @param {string} text */
  #end(text) {
    this.#owner.renew();
    this.#progress.hidden = this.#cancel.hidden = true;
    this.#count.textContent = text;
  }
}
