// @ts-check
/** One item, large: its picture, video or text, what is known of it, and what can be done with it. */

import { byId, el, nameOf, partOf, times } from "./dom.js";
import { relevanceOf, smallThumb } from "./grid.js";
import { showImage } from "./images.js";
import { play } from "./player.js";
import { call, fetchBlob, owned, Owner, patiently, pause } from "./requests.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */

// Leafing through quickly asks for nothing but what the grid has shown already.
const REST = 150, LARGE = 1024;

export class Viewer {
  #dialog = byId("viewer", HTMLDialogElement);
  #stage = byId("stage", HTMLElement);
  #line = byId("line", HTMLElement);
  #name = byId("name", HTMLElement);
  #caption = byId("caption", HTMLElement);
  #said = byId("announce", HTMLElement);
  #why = byId("why", HTMLButtonElement);
  #owner = new Owner();
  /** @type {Hit | null} */
  hit = null;
  #words = "";

  /** @param {{move: (step: number) => void, closed: () => void, like: (id: string) => void, unlike: (id: string) => void}} acts */
  constructor(acts) {
    byId("close", HTMLButtonElement).addEventListener("click", () => this.close());
    this.#dialog.addEventListener("close", () => {
      if (this.open) return;
      this.#owner.renew();
      this.#stage.replaceChildren();
      acts.closed();
    });
    byId("like", HTMLButtonElement).addEventListener("click", () => { if (this.hit) acts.like(this.hit.id); });
    byId("unlike", HTMLButtonElement).addEventListener("click", () => { if (this.hit) acts.unlike(this.hit.id); });
    byId("describe", HTMLButtonElement).addEventListener("click", () => this.#describe());
    this.#why.addEventListener("click", () => this.#explain());
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.target instanceof HTMLVideoElement || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.key === "ArrowRight") acts.move(1);
      else if (event.key === "ArrowLeft") acts.move(-1);
    });
  }

  get open() { return this.#dialog.open; }

  close() { if (this.open) this.#dialog.close(); }

  /** Say something to those who see and to those who hear. @param {string} text */
  tell(text) {
    this.#caption.textContent = text;
    this.#said.textContent = text;
  }

  /**
   * Show an item; what was under way for another one is called off.
   * @param {Hit} hit
   * @param {string} words what was searched for
   * @param {string} position where it is among the results
   */
  show(hit, words, position) {
    const signal = this.#owner.renew();
    this.hit = hit;
    this.#words = words.trim();
    const name = nameOf(hit);
    this.#name.textContent = name;
    this.#caption.textContent = "";
    this.#line.hidden = true;
    this.#line.replaceChildren();
    byId("position", HTMLElement).textContent = position;
    byId("open", HTMLAnchorElement).href = hit.media_url + partOf(hit);
    byId("describe", HTMLElement).hidden = hit.kind === "text";
    this.#why.hidden = hit.kind === "text" || !this.#words;
    this.#still(hit, signal);
    this.#facts(hit);
    if (!this.open) { this.#dialog.showModal(); this.#name.focus(); }
    owned(signal, async () => {
      await pause(REST, signal);
      this.#said.textContent = [name, times(hit), position].filter(Boolean).join(", ");
      if (hit.kind === "video") play(hit, smallThumb(hit), this.#stage, this.#line, signal, (why) => this.#failed(hit, why));
      else if (hit.kind === "image") this.#large(hit, signal);
      const item = await patiently(signal, () => call(`/api/items/${hit.id}`, signal));
      this.#facts({ ...hit, ...item });
    }, (error) => this.tell(error.message));
  }

  /** What the grid has already. @param {Hit} hit @param {AbortSignal} signal */
  #still(hit, signal) {
    this.#why.setAttribute("aria-pressed", "false");
    this.#why.textContent = texts.why;
    if (hit.kind === "text") { this.#stage.replaceChildren(el("p", { dir: "auto", textContent: hit.text ?? "" })); return; }
    const image = el("img", { alt: nameOf(hit), className: "small" });
    if (hit.width && hit.height) { image.width = hit.width; image.height = hit.height; }
    showImage(image, smallThumb(hit), signal, (why) => this.#failed(hit, why));
    this.#stage.replaceChildren(image);
  }

  /** @param {Hit} hit @param {AbortSignal} signal */
  #large(hit, signal) {
    const image = el("img", { alt: nameOf(hit) });
    image.addEventListener("load", () => {
      if (!signal.aborted && this.#why.getAttribute("aria-pressed") !== "true") this.#stage.replaceChildren(image);
    });
    signal.addEventListener("abort", () => image.removeAttribute("src"), { once: true });
    // Where it does not come, the small one stays.
    showImage(image, `${hit.thumb_url}?size=${LARGE}`, signal, () => {});
  }

  /** @param {Hit} hit @param {string} refusal why the server does not have it; empty where it may */
  #failed(hit, refusal) {
    if (hit !== this.hit) return;
    const text = refusal ? texts.refused(nameOf(hit), refusal) : hit.kind === "video" ? texts.unplayable : texts.unseen(nameOf(hit));
    if (refusal || hit.kind !== "video") this.#stage.replaceChildren(el("p", { textContent: text }));
    else {
      const image = el("img", { alt: nameOf(hit), src: `${hit.thumb_url}?size=${LARGE}` });
      this.#stage.replaceChildren(image, el("p", { textContent: text }));
    }
    this.#said.textContent = text;
  }

  /** @param {Hit} hit */
  #facts(hit) {
    /** @type {[string, string][]} */
    const rows = [];
    if (typeof hit.score === "number") rows.push([texts.score, hit.score.toFixed(4)]);
    if (typeof hit.relevance === "number") rows.push([texts.relevant, relevanceOf(hit)]);
    if (hit.start !== null) rows.push([texts.time, times(hit)]);
    if (hit.width) rows.push([texts.size, `${hit.width} × ${hit.height}`]);
    if (hit.taken_at) {
      const source = texts.dateSource[hit.date_source ?? ""];
      rows.push([texts.taken, hit.taken_at.replace("T", " ") + (source ? ` (${source})` : "")]);
    }
    if (hit.camera) rows.push([texts.camera, hit.camera]);
    if (typeof hit.latitude === "number" && typeof hit.longitude === "number") {
      const position = `${hit.latitude.toFixed(4)}, ${hit.longitude.toFixed(4)}`;
      rows.push([texts.place, hit.place ? `${hit.place} (${position})` : position]);
    }
    if (hit.rating) rows.push([texts.rating, texts.stars(hit.rating)]);
    if (hit.words) rows.push([texts.words, hit.words.split("\n").join(" · ")]);
    rows.push([texts.file, hit.path]);
    for (const path of hit.copies ?? []) rows.push([texts.copyOf, path]);
    byId("facts", HTMLElement).replaceChildren(...rows.flatMap(([term, value]) => [
      el("dt", { textContent: term }), el("dd", { dir: "auto", textContent: value })]));
  }

  #describe() {
    const hit = this.hit, signal = this.#owner.signal;
    if (!hit) return;
    this.tell(texts.reading);
    owned(signal, async () => {
      const answer = await patiently(signal, () => call("/api/describe", signal, { id: hit.id }), () => this.tell(texts.busy));
      this.tell(answer.caption);
    }, (error) => this.tell(error.message));
  }

  #explain() {
    const hit = this.hit, signal = this.#owner.signal;
    if (!hit) return;
    if (this.#why.getAttribute("aria-pressed") === "true") { this.show(hit, this.#words, byId("position", HTMLElement).textContent ?? ""); return; }
    this.tell(texts.reading);
    owned(signal, async () => {
      const query = new URLSearchParams({ id: hit.id, text: this.#words });
      const sheet = URL.createObjectURL(await patiently(signal, () => fetchBlob(`/api/explain?${query}`, signal), () => this.tell(texts.busy)));
      signal.addEventListener("abort", () => URL.revokeObjectURL(sheet), { once: true });
      this.tell("");
      this.#why.setAttribute("aria-pressed", "true");
      this.#why.textContent = texts.whyBack;
      this.#stage.replaceChildren(el("img", { className: "why", alt: texts.whyAlt(this.#words), src: sheet }));
    }, (error) => this.tell(error.message));
  }
}
