// @ts-check
/** Searches that this browser remembers, as addresses: what was searched last, and what was kept. */

import { format, parse } from "./address.js";

const MOST = 12, KEPT = 100, LONGEST = 2100;

/** @param {string} name @returns {string[]} */
function read(name) {
  try {
    const value = JSON.parse(localStorage.getItem(name) ?? "[]");
    return Array.isArray(value) ? value.filter((one) => typeof one === "string").slice(0, KEPT) : [];
  } catch {
    return [];
  }
}

/** @param {string} name @param {string[]} values */
function write(name, values) {
  try {
    localStorage.setItem(name, JSON.stringify(values));
  } catch {
    // A browser that keeps nothing searches all the same.
  }
}

/** An address as this page makes it, without an item that was open. @param {string} address */
const clean = (address) => format({ ...parse(new URL(address, location.origin).search), item: "" });
/** What an address asks for, in words. @param {string} address */
export const lineOf = (address) => {
  const { text, kind, sort, like, picture } = parse(new URL(address, location.origin).search);
  return [text, kind, sort, like || picture ? "▣" : ""].filter(Boolean).join(" · ");
};
export const recent = () => read("mmsearch.recent");
export const saved = () => read("mmsearch.saved");

/** @param {string} address */
export function remember(address) {
  const now = clean(address);
  if (lineOf(now)) write("mmsearch.recent", [now, ...recent().filter((one) => one !== now)].slice(0, MOST));
}
export const forget = () => write("mmsearch.recent", []);
/** @param {string} address */
export const isSaved = (address) => saved().includes(clean(address));

/** Keep a search, or no longer. @param {string} address */
export function toggle(address) {
  const now = clean(address);
  write("mmsearch.saved", isSaved(now) ? saved().filter((one) => one !== now) : [now, ...saved()].slice(0, KEPT));
}

/** A link that brings the kept searches into another browser. */
export const exported = () => `${location.origin}/#saved=${encodeURIComponent(JSON.stringify(saved()))}`;

/** Keep the searches that such a link brings as well. */
export function take() {
  if (!location.hash.startsWith("#saved=")) return;
  try {
    const given = JSON.parse(decodeURIComponent(location.hash.slice(7)));
    const sound = (Array.isArray(given) ? given : []).filter((one) => typeof one === "string" && one.length < LONGEST && one.startsWith("/?")).map(clean).filter(lineOf);
    write("mmsearch.saved", [...new Set([...saved(), ...sound])].slice(0, KEPT));
  } catch {
    // A link that was cut brings nothing.
  }
  history.replaceState(history.state, "", location.pathname + location.search);
}
