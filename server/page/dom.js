// @ts-check
/** Small things about the document that every view needs. */

/**
 * The element of an id, which must be there and of its kind.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const node = document.getElementById(id);
  if (!(node instanceof kind)) throw new TypeError(id);
  return node;
}

/**
 * A new element with properties and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A time in a video as people read it. @param {number} seconds */
export function clock(seconds) {
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${two(minutes)}:${two(whole % 60)}`;
}

/** @param {{start: number | null, end: number | null}} stretch */
export const times = ({ start, end }) => (start === null ? "" : `${clock(start)}–${clock(end ?? start)}`);

/** A page of a PDF, as the server names it: the file, and the number of the page. */
const PAGE = /(\.(?:pdf|ai))::(\d+)$/i;

/** The name of a file without its folders, and its page. @param {{path: string}} item */
export const nameOf = (item) => (item.path.split(/[\\/]/).pop() || item.path).replace(PAGE, "$1, page $2");

/** The part of a file that an item is, for the end of an address. @param {{path: string, start: number | null}} item */
export const partOf = (item) => {
  if (item.start !== null) return `#t=${item.start}`;
  const page = PAGE.exec(item.path);
  return page ? `#page=${page[2]}` : "";
};

/** Whether a click is to be followed as the browser does, in a tab or window of its own. @param {MouseEvent} event */
export const opensElsewhere = (event) => event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
