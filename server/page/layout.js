// @ts-check
/** A justified layout in blocks, each by itself: what is learnt of one block moves the others up or down and never about. */

export const GAP = 6;
const BLOCK = 100;

/** A row of the layout: its top and height in pixels, its first item, and left edges and widths of its items.
 * @typedef {{top: number, height: number, first: number, lefts: number[], widths: number[]}} Row */

export class Layout {
  /** @type {(Row[] | undefined)[]} */
  #blocks = [];
  /** @type {number[]} Where each block begins, and where the last one ends. */
  #tops = [0];
  #width = 0;
  #goal = 0;
  #count = 0;

  get height() { return this.#tops.at(-1) ?? 0; }

  /**
   * Lay out `count` items, those again that are not `kept`.
   * @param {number} count @param {number} width @param {number} goal the height of a row
   * @param {(number: number) => number} ratio width by height of an item
   * @param {(block: number) => boolean} kept whether nothing is known anew of a block
   */
  lay(count, width, goal, ratio, kept) {
    const same = width === this.#width && goal === this.#goal;
    const blocks = Math.ceil(count / BLOCK), last = Math.floor(this.#count / BLOCK);
    this.#blocks.length = blocks;
    this.#tops.length = blocks + 1;
    this.#tops[0] = 0;
    for (let block = 0; block < blocks; block += 1) {
      const whole = same && kept(block) && (count === this.#count || block < last);
      const rows = (whole && this.#blocks[block]) || this.#rows(block, count, width, goal, ratio);
      this.#blocks[block] = rows;
      const end = rows.at(-1);
      this.#tops[block + 1] = (this.#tops[block] ?? 0) + (end ? end.top + end.height + GAP : 0);
    }
    [this.#width, this.#goal, this.#count] = [width, goal, count];
  }

  /** @param {number} block @param {number} count @param {number} width @param {number} goal @param {(number: number) => number} ratio */
  #rows(block, count, width, goal, ratio) {
    /** @type {{first: number, ratios: number[], sum: number}[]} */
    const lines = [];
    const end = Math.min(count, (block + 1) * BLOCK), free = (/** @type {{ratios: number[]}} */ { ratios }) => width - GAP * (ratios.length - 1);
    let line = { first: block * BLOCK, ratios: /** @type {number[]} */ ([]), sum: 0 };
    for (let number = line.first; number < end; number += 1) {
      line.ratios.push(ratio(number));
      line.sum += ratio(number);
      if (free(line) / line.sum <= goal || number === end - 1) {
        lines.push(line);
        line = { first: number + 1, ratios: [], sum: 0 };
      }
    }
    const tail = lines.at(-1), before = lines.at(-2);
    // What is left over at the end of a block is shared with the row before it; at the end of all it stays as high as others.
    if (tail && before && end < count && free(tail) / tail.sum > 1.5 * goal) {
      const all = [...before.ratios, ...tail.ratios], half = (before.sum + tail.sum) / 2;
      const one = { first: before.first, ratios: /** @type {number[]} */ ([]), sum: 0 };
      if (free({ ratios: all }) / (2 * half) > 0.72 * goal) { one.ratios = all; one.sum = 2 * half; lines.splice(-2, 2, one); }
      else {
        while (one.sum + (all[one.ratios.length] ?? 0) / 2 < half) { const next = all[one.ratios.length] ?? 1; one.ratios.push(next); one.sum += next; }
        lines.splice(-2, 2, one, { first: one.first + one.ratios.length, ratios: all.slice(one.ratios.length), sum: 2 * half - one.sum });
      }
    }
    let top = 0;
    return lines.map((row) => {
      const fit = free(row) / row.sum, height = end === count && row === lines.at(-1) ? Math.min(goal, fit) : fit;
      let left = 0;
      const lefts = row.ratios.map((value) => { const at = left; left += value * height + GAP; return Math.round(at); });
      const widths = lefts.map((at, number) => (lefts[number + 1] ?? Math.round(left)) - GAP - at);
      const made = { top, height: Math.round(height), first: row.first, lefts, widths };
      top += made.height + GAP;
      return made;
    });
  }

  /** The rows that lie between two heights, their tops from the top of all. @param {number} from @param {number} to @returns {Row[]} */
  between(from, to) {
    /** @type {Row[]} */
    const rows = [];
    for (let block = this.#blockAt(from); block < this.#blocks.length && (this.#tops[block] ?? 0) < to; block += 1) {
      for (const row of this.#blocks[block] ?? []) {
        const top = row.top + (this.#tops[block] ?? 0);
        if (top + row.height > from && top < to) rows.push({ ...row, top });
      }
    }
    return rows;
  }

  /** The row of an item. @param {number} number @returns {Row | undefined} */
  rowOf(number) {
    const block = Math.floor(number / BLOCK), row = this.#blocks[block]?.findLast(({ first }) => first <= number);
    return row && { ...row, top: row.top + (this.#tops[block] ?? 0) };
  }

  /** The row above or below that of an item, and which of its items is nearest. @param {number} number @param {1 | -1} step */
  beside(number, step) {
    const here = this.rowOf(number);
    const other = here && this.rowOf(step > 0 ? here.first + here.lefts.length : here.first - 1);
    if (!here || !other || other.first === here.first) return number;
    const middle = (/** @type {Row} */ row, /** @type {number} */ at) => (row.lefts[at] ?? 0) + (row.widths[at] ?? 0) / 2;
    const away = other.lefts.map((_, at) => Math.abs(middle(other, at) - middle(here, number - here.first)));
    return other.first + away.indexOf(Math.min(...away));
  }

  /** @param {number} height */
  #blockAt(height) {
    let low = 0, high = this.#blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#tops[middle] ?? 0) <= height) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }
}
