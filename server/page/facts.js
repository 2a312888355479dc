// @ts-check
/** What is known of an item, where it makes sense as links that search by it. */

import { format, NOTHING } from "./address.js";
import { el, nameOf, opensElsewhere, times } from "./dom.js";
import { relevanceOf } from "./grid.js";
import { write } from "./line.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").HeldFile} HeldFile */
/** @typedef {(text: string) => void} Search */

/** The day that an item was taken on; nothing where only its file's time is known. @param {Hit} hit */
export const dayOf = (hit) => (hit.taken_at && hit.date_source && hit.date_source !== "file" ? hit.taken_at.slice(0, 10) : "");

/** Around where an item was taken, as a filter; nothing where that is not known. @param {Hit} hit @param {number} km */
export const nearOf = (hit, km) =>
  (typeof hit.latitude === "number" && typeof hit.longitude === "number" ? `near:${hit.latitude.toFixed(4)},${hit.longitude.toFixed(4)}~${km}km` : "");

/** A link that searches for a line. @param {string} line @param {string} label @param {Search} search */
export function searchLink(line, label, search) {
  const link = el("a", { href: format({ ...NOTHING, text: line }), textContent: label, title: texts.searchFor(line) });
  link.addEventListener("click", (event) => {
    if (opensElsewhere(event)) return;
    event.preventDefault();
    search(line);
  });
  return link;
}

/**
 * The rows of a list of facts.
 * @param {Hit} hit
 * @param {HeldFile | null} file null as long as it is not known
 * @param {Search} search
 */
export function factRows(hit, file, search) {
  /** @type {HTMLElement[]} */
  const rows = [];
  const row = (/** @type {string} */ term, /** @type {(Node | string)[]} */ ...values) => {
    rows.push(el("dt", { textContent: term }), el("dd", { dir: "auto" }, ...values));
  };
  const link = (/** @type {string} */ line, /** @type {string} */ label) => searchLink(line, label, search);
  const relevance = relevanceOf(hit);
  if (relevance) row(texts.relevant, typeof hit.score === "number" ? `${relevance} (${hit.score.toFixed(2)})` : relevance);
  if (hit.start !== null) row(texts.time, times(hit));
  if (hit.width) row(texts.size, `${hit.width} × ${hit.height}`);
  if (hit.taken_at) {
    const source = texts.dateSource[hit.date_source ?? ""], [day = "", hour = ""] = hit.taken_at.split("T");
    row(texts.taken, link(write({ name: "on", value: day }), day), ` ${hour}${source ? ` (${source})` : ""}`);
  }
  if (hit.camera) row(texts.camera, link(write({ name: "camera", value: hit.camera }), hit.camera));
  const near = nearOf(hit, 5);
  if (near) {
    const position = `${hit.latitude?.toFixed(4)}, ${hit.longitude?.toFixed(4)}`;
    row(texts.place, link(near, hit.place || position), hit.place ? ` (${position})` : "");
  }
  if (hit.rating) row(texts.rating, link(`rating:${hit.rating}`, texts.stars(hit.rating)));
  if (hit.words) {
    row(texts.words, ...hit.words.split("\n").filter(Boolean).flatMap((word, at) => [at ? " · " : "", link(`"${word.replace(/[\\"]/g, "\\$&")}"`, word)]));
  }
  if (file?.folder) row(texts.folder, link(write({ name: "in", value: file.folder }), file.folder));
  row(texts.file, file ? file.place.slice(file.folder.length).replace(/^\//, "") : nameOf(hit));
  // The server's own folders are nobody's business here: a copy is named as its picture is, below what was indexed.
  const root = file && hit.path.endsWith(file.place) ? hit.path.slice(0, hit.path.length - file.place.length) : null;
  for (const path of hit.copies ?? []) row(texts.copyOf, root !== null && path.startsWith(root) ? path.slice(root.length) : nameOf({ path }));
  return rows;
}
