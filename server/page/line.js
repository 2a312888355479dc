// @ts-check
/** The query line as the page shows it: its filters apart from its other words. The server reads the same line; a test holds both equal. */

/** @typedef {{name: string, value: string}} Filter */
/** @typedef {Filter & {start: number, end: number, open: boolean}} Found */

export const FILTERS = ["after", "before", "on", "in", "name", "kind", "camera", "near", "rating"];
const BLANK = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE = new RegExp(`[${BLANK}]`), EDGES = new RegExp(`^[${BLANK}]+|[${BLANK}]+$`, "g"), LEADING = new RegExp(`^[${BLANK}]+`);
/** @type {Record<string, string>} */
const QUOTES = { '"': '"', "“": "”", "„": "“”", "«": "»" };
/** @type {Record<string, RegExp>} */
const QUOTED = { '"': /((?:[^"\\]|\\[\\"]|\\(?![\\"]))*)"/y, "”": /([^”]*)”/y, "“”": /([^“”]*)[“”]/y, "»": /([^»]*)»/y };
const NAME = /([A-Za-z]+):/y;
const WEIGHT = /([0-9]{1,4}(?:\.[0-9]{1,24})?):(?=[\p{L}\p{Nl}\p{No}_"“„«])/uy;

/** @param {RegExp} pattern @param {string} line @param {number} at */
function match(pattern, line, at) {
  pattern.lastIndex = at;
  return pattern.exec(line);
}

/** The filters of a line with where each stands; `open` where what is quoted has no end yet. @param {string} line */
export function findFilters(line) {
  /** @type {Found[]} */
  const found = [];
  /** @type {Set<string>} */
  const unclosed = new Set();
  const endOf = (/** @type {number} */ at) => {
    while (at < line.length && !SPACE.test(line[at] ?? "")) at += 1;
    return at;
  };
  /** @param {number} at @returns {[string, number] | null} */
  const quoted = (at) => {
    const closing = QUOTES[line[at] ?? ""];
    if (!closing || unclosed.has(closing)) return null;
    const hit = match(/** @type {RegExp} */ (QUOTED[closing]), line, at + 1);
    if (!hit) { unclosed.add(closing); return null; }
    const text = hit[1] ?? "";
    return [closing === '"' ? text.replace(/\\([\\"])/g, "$1") : text, at + 1 + hit[0].length];
  };
  /** @param {number} at @returns {[string, number]} */
  const value = (at) => {
    const [text, start] = quoted(at) ?? ["", at], end = endOf(start);
    return [text + line.slice(start, end), end];
  };
  const opensQuote = (/** @type {number} */ at) => (line[at] ?? "") in QUOTES && !quoted(at);
  let at = 0, opens = true;
  while (at < line.length) {
    const first = line[at] ?? "";
    if (SPACE.test(first)) { at += 1; continue; }
    const stop = endOf(at);
    if (stop - at === 1 && "+-".includes(first)) { at = stop; opens = true; continue; }
    const weight = opens ? match(WEIGHT, line, at) : null;
    if (weight && Number(weight[1]) > 0 && !opensQuote(at + weight[0].length)) {
      at = value(at + weight[0].length)[1];
      opens = false;
      continue;
    }
    const name = match(NAME, line, at), low = name?.[1]?.toLowerCase() ?? "";
    if (first === "\\" && stop - at > 1) { at = stop; opens = false; continue; }
    const end = first in QUOTES ? quoted(at)?.[1] : first === "-" && !"-".startsWith(line[at + 1] ?? "-") ? quoted(at + 1)?.[1] ?? stop : 0;
    if (end) at = end;
    else if (FILTERS.includes(low)) {
      const begin = at + low.length + 1, open = opensQuote(begin), [text, after] = value(begin);
      found.push({ name: low, value: text.replace(EDGES, ""), start: at, end: after, open });
      at = after;
    } else { at = stop; opens = false; }
  }
  return found;
}

/** A filter as the line has it. @param {Filter} filter */
export const write = ({ name, value }) =>
  `${name}:${(value[0] ?? "") in QUOTES || SPACE.test(value) ? `"${value.replace(/[\\"]/g, "\\$&")}"` : value}`;

/**
 * The filters of a line that are complete, and all else. While it is typed, the one that the cursor is in is not.
 * @param {string} line
 * @param {number} [cursor]
 * @returns {{filters: Filter[], rest: string}}
 */
export function split(line, cursor = -1) {
  const typing = cursor >= 0;
  const found = findFilters(line).filter(({ value, start, end, open }) => value && !(typing && (open || (start <= cursor && cursor <= end))));
  if (!found.length) return { filters: [], rest: line };
  let rest = "", at = 0;
  for (const { start, end } of found) { rest += line.slice(at, start); at = end + 1; }
  rest += line.slice(at);
  return { filters: found.map(({ name, value }) => ({ name, value })), rest: typing ? rest.replace(LEADING, "") : rest.replace(EDGES, "") };
}

/** The line of filters and other words. @param {Filter[]} filters @param {string} rest */
export const join = (filters, rest) => (filters.length ? [...filters.map(write), rest.replace(EDGES, "")].filter(Boolean).join(" ") : rest);

/**
 * The line with some filters of these names in place of those that it has.
 * @param {string} line @param {string[]} names @param {Filter[]} filters
 */
export function replaceFilters(line, names, filters) {
  const { filters: old, rest } = split(line);
  return join([...old.filter(({ name }) => !names.includes(name)), ...filters], rest);
}
