// @ts-check
/** One item, large: its picture, video or text, what is known of it, what is near to it, and what can be done with it. */

import { Board } from "./board.js";
import { byId, el, nameOf, partOf, times } from "./dom.js";
import { factRows } from "./facts.js";
import { smallThumb } from "./grid.js";
import { showImage } from "./images.js";
import { isDocument } from "./passage.js";
import { Player } from "./player.js";
import { RegionTool } from "./region.js";
import { call, owned, Owner, patiently, pause } from "./requests.js";
import { Strips } from "./strips.js";
import { texts } from "./texts.js";
import { Why } from "./why.js";
import { Written } from "./written.js";
import { Zoom } from "./zoom.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").HeldFile} HeldFile */
/**
 * `move` goes to a neighbour, `open` to another item that is not among the results, `search` to a line, `part` to a part of an item.
 * @typedef {{move: (step: number) => void, closed: () => void, like: (id: string) => void, unlike: (id: string) => void,
 *   open: (hit: Hit) => void, search: (line: string) => void, part: (id: string, region: string) => void}} Acts
 */
/** @typedef {{position: string, before: Hit | null, after: Hit | null}} Around */

// Leafing through quickly asks for nothing but what the grid has shown already.
const REST = 150, LARGE = 1024;
// What no browser shows as it is: the large thumbnail stays.
const FOREIGN = /\.(arw|cr[23w]|dng|nef|orf|raf|rw2|pef|srw|tiff?|psd|jxl|jp2|pdf|svg|hei[cf])$/i;

export class Viewer {
  #dialog = byId("viewer", HTMLDialogElement);
  #stage = byId("stage", HTMLElement);
  #tools = byId("tools", HTMLElement);
  #name = byId("name", HTMLElement);
  #caption = byId("caption", HTMLElement);
  #byline = byId("byline", HTMLElement);
  #quote = byId("quote", HTMLElement);
  #said = byId("announce", HTMLElement);
  #previous = byId("previous", HTMLButtonElement);
  #next = byId("next", HTMLButtonElement);
  #owner = new Owner();
  #why = new Why();
  #board = new Board();
  #written = new Written();
  #strips;
  /** @type {Zoom} */
  #zoom;
  /** @type {RegionTool} */
  #part;
  /** @type {Player | null} */
  #player = null;
  /** Whether the file itself is asked for, and whether it is shown. */
  #asked = false;
  #sharp = false;
  /** @type {Hit | null} */
  hit = null;
  #words = "";
  /** @type {Around} */
  #around = { position: "", before: null, after: null };

  /** @param {Acts} acts */
  constructor(acts) {
    this.acts = acts;
    this.#strips = new Strips(acts);
    this.#zoom = new Zoom(this.#stage, {
      swipe: acts.move,
      sharper: () => this.#sharpen(),
      press: (at) => this.#part.start(at),
      tool: () => (this.#part.on ? this.#part : null),
    });
    this.#part = new RegionTool(this.#zoom.frame, (region) => { if (this.hit) acts.part(this.hit.id, region); });
    const press = (/** @type {string} */ id, /** @type {() => void} */ act) => byId(id, HTMLButtonElement).addEventListener("click", act);
    press("close", () => this.close());
    press("previous", () => acts.move(-1));
    press("next", () => acts.move(1));
    press("larger", () => this.#zoom.step(1));
    press("smaller", () => this.#zoom.step(-1));
    press("fit", () => this.#zoom.reset());
    press("like", () => { if (this.hit) acts.like(this.hit.id); });
    press("unlike", () => { if (this.hit) acts.unlike(this.hit.id); });
    press("describe", () => this.#describe());
    press("why", () => this.#explain());
    this.#dialog.addEventListener("close", () => {
      if (this.open) return;
      this.#owner.renew();
      this.#empty();
      acts.closed();
    });
    // Escape puts the tool away first.
    this.#dialog.addEventListener("cancel", (event) => {
      if (!this.#part.on) return;
      event.preventDefault();
      this.#part.stop();
      byId("part", HTMLButtonElement).focus();
    });
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.target instanceof HTMLVideoElement || event.altKey || event.ctrlKey || event.metaKey) return;
      if (this.#zoom.key(event.key)) event.preventDefault();
      else if (event.shiftKey) return;
      else if (event.key === "ArrowRight") acts.move(1);
      else if (event.key === "ArrowLeft") acts.move(-1);
    });
  }

  get open() { return this.#dialog.open; }

  close() { if (this.open) this.#dialog.close(); }

  /** Say something to those who see and to those who hear. @param {string} text @param {boolean} [byModel] whether a model wrote it */
  tell(text, byModel = false) {
    this.#caption.textContent = text;
    this.#said.textContent = text;
    this.#byline.hidden = !byModel;
  }

  /** What is around the item that is shown. @param {Around} around */
  place(around) {
    const { position, before, after } = this.#around = around;
    byId("position", HTMLElement).textContent = position;
    // A button that has the focus and is out loses it, and the keys with it.
    if ((!before && document.activeElement === this.#previous) || (!after && document.activeElement === this.#next)) this.#name.focus();
    this.#previous.disabled = !before;
    this.#next.disabled = !after;
  }

  #empty() {
    this.#player = null;
    this.#asked = this.#sharp = false;
    this.#part.stop();
    this.#why.clear();
    this.#board.clear();
    this.#written.clear();
    this.#strips.clear();
    this.#zoom.clear();
    this.#stage.replaceChildren();
  }

  /**
   * Show an item; what was under way for another one is called off.
   * @param {Hit} hit
   * @param {string} words what was searched for
   * @param {Around} around
   */
  show(hit, words, around) {
    const signal = this.#owner.renew();
    this.#empty();
    this.hit = hit;
    this.#words = words.trim();
    const name = nameOf(hit), document_ = isDocument(hit);
    this.#name.textContent = name;
    this.tell("");
    this.#quote.textContent = hit.kind === "text" && !document_ ? hit.text : "";
    this.place(around);
    byId("open", HTMLAnchorElement).href = hit.media_url + partOf(hit);
    byId("describe", HTMLElement).hidden = hit.kind === "text";
    byId("why", HTMLElement).hidden = hit.kind === "text" || !this.#words;
    if (document_) this.#tellPassage(hit);
    else this.#still(hit, signal);
    this.#facts(hit, null);
    if (!this.open) { this.#dialog.showModal(); this.#name.focus(); }
    this.#dialog.scrollTop = 0;
    owned(signal, async () => {
      await pause(REST, signal);
      this.#said.textContent = [name, times(hit), around.position].filter(Boolean).join(", ");
      const file = this.#file(hit, signal);
      if (hit.start !== null) this.#play(hit, file, signal);
      else if (!document_) this.#large(hit, signal);
      const item = await patiently(signal, () => call(`/api/items/${hit.id}`, signal));
      this.#facts({ ...hit, ...item }, null);
      const held = await file;
      if (held) {
        this.#facts({ ...hit, ...item }, held);
        this.#written.show(hit, held, (start, end) => this.#player?.seek(start, end));
        this.#board.show(held.moments, (start, end) => this.#player?.seek(start, end));
      }
      for (const near of [around.after, around.before]) if (near?.kind === "image") new Image().src = `${near.thumb_url}?size=${LARGE}`;
      await this.#strips.show({ ...hit, ...item }, signal);
    }, (error) => this.tell(error.message));
  }

  /** What belongs to the same file; nothing where that cannot be had. @param {Hit} hit @param {AbortSignal} signal @returns {Promise<HeldFile | null>} */
  async #file(hit, signal) {
    try {
      return await patiently(signal, () => call(`/api/items/${hit.id}/file`, signal));
    } catch {
      return null;
    }
  }

  /** What the grid has already. @param {Hit} hit @param {AbortSignal} signal */
  #still(hit, signal) {
    const image = el("img", { alt: nameOf(hit) });
    this.#tools.hidden = hit.start !== null;
    this.#zoom.show(image, hit.width, hit.height);
    showImage(image, smallThumb(hit), signal, (why) => this.#failed(hit, why));
  }

  /** @param {Hit} hit */
  #tellPassage(hit) {
    this.#tools.hidden = true;
    this.#stage.replaceChildren(el("p", { dir: "auto", textContent: hit.text ?? "" }));
  }

  /** @param {Hit} hit @param {AbortSignal} signal */
  #large(hit, signal) {
    const image = el("img", { alt: nameOf(hit) });
    image.addEventListener("load", () => { if (!signal.aborted && !this.#sharp) this.#zoom.show(image, hit.width, hit.height); });
    signal.addEventListener("abort", () => image.removeAttribute("src"), { once: true });
    // Where it does not come, the small one stays.
    showImage(image, `${hit.thumb_url}?size=${LARGE}`, signal, () => {});
  }

  /** The file itself, once it is looked at closely. */
  async #sharpen() {
    const hit = this.hit, signal = this.#owner.signal;
    if (!hit || this.#asked || hit.start !== null || FOREIGN.test(hit.path)) return;
    this.#asked = true;
    const image = el("img", { alt: nameOf(hit), src: hit.media_url });
    signal.addEventListener("abort", () => image.removeAttribute("src"), { once: true });
    try {
      await image.decode();
    } catch {
      return;
    }
    const shown = hit.width && hit.height ? hit.width / hit.height : image.naturalWidth / image.naturalHeight;
    // Of a page or a part of a file, the file shows something else.
    if (signal.aborted || Math.abs(image.naturalWidth / image.naturalHeight / shown - 1) > 0.02) return;
    this.#sharp = true;
    this.#zoom.show(image, hit.width, hit.height);
  }

  /** @param {Hit} hit @param {Promise<HeldFile | null>} file @param {AbortSignal} signal */
  #play(hit, file, signal) {
    const moments = file.then((held) => held?.moments ?? []);
    const player = new Player(hit, smallThumb(hit), this.#stage, moments, signal, {
      ready: (duration) => this.#board.mark(hit, duration, (start, end) => player.seek(start, end)),
      at: (time) => { this.#board.at(time); this.#written.at(time); },
      failed: (why) => this.#failed(hit, why),
    });
    this.#player = player;
  }

  /** @param {Hit} hit @param {string} refusal why the server does not have it; empty where it may */
  #failed(hit, refusal) {
    if (hit !== this.hit) return;
    if (hit.kind === "text") { this.#quote.textContent = ""; this.#tellPassage(hit); return; }
    const text = refusal ? texts.refused(nameOf(hit), refusal) : hit.kind === "video" ? texts.unplayable : texts.unseen(nameOf(hit));
    this.#tools.hidden = true;
    if (refusal || hit.kind !== "video") this.#stage.replaceChildren(el("p", { textContent: text }));
    else {
      const image = el("img", { alt: nameOf(hit), src: `${hit.thumb_url}?size=${LARGE}` });
      this.#stage.replaceChildren(image, el("p", { textContent: text }));
    }
    this.#said.textContent = text;
  }

  /** @param {Hit} hit @param {HeldFile | null} file */
  #facts(hit, file) { byId("facts", HTMLElement).replaceChildren(...factRows(hit, file, (line) => this.acts.search(line))); }

  #describe() {
    const hit = this.hit, signal = this.#owner.signal;
    if (!hit) return;
    this.tell(texts.reading);
    owned(signal, async () => {
      const answer = await patiently(signal, () => call("/api/describe", signal, { id: hit.id }), () => this.tell(texts.busy));
      this.tell(answer.caption, true);
    }, (error) => this.tell(error.message));
  }

  #explain() {
    const hit = this.hit, signal = this.#owner.signal;
    if (!hit) return;
    if (this.#why.on) {
      this.#why.clear();
      if (hit.start !== null) this.show(hit, this.#words, this.#around);
      return;
    }
    this.tell(texts.reading);
    this.#dialog.scrollTop = 0;
    owned(signal, async () => {
      await this.#why.show(hit.id, this.#words, this.#zoom.frame, signal, () => this.tell(texts.busy));
      this.tell("");
      // A moment is explained by its middle: that stands still instead of the film.
      if (hit.start !== null) { this.#still(hit, signal); this.#large(hit, signal); }
    }, (error) => this.tell(error.message));
  }
}
