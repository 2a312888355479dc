// @ts-check
/** One result as it stands in the grid: its picture, what is known of it, its copies, and a mark to select it. */

import { format } from "./address.js";
import { el, nameOf, times } from "./dom.js";
import { showImage } from "./images.js";
import { textTile } from "./passage.js";
import { said } from "./said.js";
import { texts } from "./texts.js";

/** @typedef {import("./address.js").State} State */
/** @typedef {import("./requests.js").Hit} Hit */

export const RESULT = "application/x-mmsearch-item";
const THUMB = 384, REST = 250;

/** @param {Hit} hit */
export const smallThumb = (hit) => `${hit.thumb_url}?size=${THUMB}`;
/** How likely a hit is relevant, in words; nothing where that is not known. A hit that meaning alone would call unlikely was
 * raised by its words. @param {Hit} hit */
export const relevanceOf = ({ relevance, matched_words: words }) => {
  const word = (typeof relevance === "number" && texts.relevances.find(([least]) => relevance >= least)?.[1]) || "";
  return words?.length && (!word || word === texts.relevances.at(-1)?.[1]) ? texts.byWords : word;
};

/** @param {Hit} hit @param {State} state @param {AbortSignal} signal */
export function tileOf(hit, state, signal) {
  const name = nameOf(hit), when = hit.kind === "video" ? times(hit) : "", count = hit.copies?.length ?? 0, word = relevanceOf(hit);
  const tile = el("a", { className: "tile", href: format({ ...state, item: hit.id }), draggable: true, tabIndex: -1 });
  tile.setAttribute("aria-label", [hit.kind === "text" ? hit.text ?? name : name, when, count ? texts.copies(count) : "", texts.relevance(word)].filter(Boolean).join(", "));
  if (hit.kind === "text") tile.append(textTile(hit, word, signal));
  else {
    const image = el("img", { alt: "", decoding: "async", draggable: false });
    image.addEventListener("load", () => image.classList.add("here"), { once: true });
    showImage(image, smallThumb(hit), signal, (why) => image.replaceWith(
      el("span", { className: "gone", dir: "auto", textContent: why ? texts.refused(name, why) : texts.unseen(name) })));
    tile.append(image);
    if (when || word) tile.append(el("span", { className: "label" }, el("span", { textContent: when }), el("span", { textContent: word })));
    if (hit.kind === "video") playOnHover(tile, hit);
  }
  // Seen on paper, where nothing can be opened.
  tile.append(el("span", { className: "name", dir: "auto", textContent: name }));
  tile.addEventListener("dragstart", (event) => event.dataTransfer?.setData(RESULT, hit.id));
  return tile;
}

/** The moment of a video plays while the mouse rests on it. @param {HTMLElement} tile @param {Hit} hit */
function playOnHover(tile, hit) {
  let timer = 0;
  /** @type {HTMLVideoElement | null} */
  let video = null;
  const stop = () => {
    clearTimeout(timer);
    video?.removeAttribute("src");
    video?.load();
    video?.remove();
    video = null;
  };
  tile.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "mouse" || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    timer = setTimeout(() => {
      const start = hit.start ?? 0, end = hit.end ?? Infinity;
      const playing = video = el("video", { muted: true, playsInline: true, tabIndex: -1 });
      playing.setAttribute("aria-hidden", "true");
      let base = 0;
      playing.addEventListener("error", () => {
        if (base || !playing.src || playing.src.includes("/preview/")) return;
        base = start;
        playing.src = `/preview/${hit.id}`;
      });
      playing.addEventListener("loadedmetadata", () => { playing.currentTime = start - base; });
      playing.addEventListener("timeupdate", () => { if (playing.currentTime + base >= end) playing.currentTime = start - base; });
      playing.addEventListener("playing", () => playing.classList.add("here"));
      playing.src = hit.media_url;
      tile.append(playing);
      playing.play().catch(() => {});
    }, REST);
  });
  tile.addEventListener("pointerleave", stop);
}

/** The mark that selects a result. @param {Hit} hit @param {boolean} on */
export function checkOf(hit, on) {
  const check = el("button", { type: "button", className: "check", tabIndex: -1, textContent: "✓" });
  check.setAttribute("aria-label", said.select(nameOf(hit)));
  check.setAttribute("aria-pressed", String(on));
  return check;
}

/** What opens the copies of a result. @param {Hit} hit */
export function stackOf(hit) {
  const count = hit.copies?.length ?? 0;
  if (!count) return [];
  const stack = el("button", { type: "button", className: "stack", tabIndex: -1, textContent: `+${count}` });
  stack.setAttribute("aria-label", said.copiesOf(count, nameOf(hit)));
  stack.setAttribute("aria-expanded", "false");
  return [stack];
}
