// @ts-check
/** A text among results: the picture or the moment that it is about, its words, where it is from, and how likely it is meant. */

import { clock, el, nameOf } from "./dom.js";
import { showImage } from "./images.js";

/** @typedef {import("./requests.js").Hit} Hit */

const DOCUMENT = /\.(txt|md|markdown|rst|log|csv|tsv|json|srt|vtt|html?|docx?|odt|epub|rtf|org|tex)$/i, SMALL = 256;

/** Whether a text is of a document, which has no picture. @param {Hit} hit */
export const isDocument = (hit) => hit.kind === "text" && hit.start === null && DOCUMENT.test(hit.path);

/**
 * What the tile of a text shows.
 * @param {Hit} hit
 * @param {string} relevance in words, or nothing
 * @param {AbortSignal} signal
 */
export function textTile(hit, relevance, signal) {
  const name = nameOf(hit), from = hit.start === null ? name : `${name} ${clock(hit.start)}`;
  const tile = el("span", { className: "about" },
    el("span", { className: "text", dir: "auto", textContent: hit.text ?? "" }),
    el("span", { className: "from" }, el("span", { dir: "auto", textContent: from }), el("span", { textContent: relevance })));
  if (isDocument(hit)) return tile;
  const image = el("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
  // A text without a picture is one all the same.
  showImage(image, `${hit.thumb_url}?size=${SMALL}`, signal, () => image.remove());
  tile.prepend(image);
  return tile;
}
