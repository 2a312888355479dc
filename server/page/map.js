// @ts-check
/** Where photos were taken: the outline of the world as far as it is needed, with a button for each cluster. No tile comes from elsewhere. */

import { el } from "./dom.js";
import { said } from "./said.js";

/** @typedef {{latitude: number, longitude: number, count: number}} Point */

const APART = 30, DEGREE = 111.2;
// The name of SVG, as the page has it already.
const SVG = document.querySelector("svg")?.namespaceURI ?? null;
/** @type {Promise<string> | null} */
let outline = null;

/** The outline as the data of a path, a unit a tenth of a degree. */
function land() {
  outline ??= fetch(new URL("world.svg", import.meta.url)).then((reply) => reply.text()).then((text) => / d="([^"]*)"/.exec(text)?.[1] ?? "");
  return outline;
}

export class WorldMap {
  #choose;
  #box = el("div", { className: "map" });
  #svg = document.createElementNS(SVG, "svg");
  /** @type {Element | null} */
  #path = null;
  /** @type {Point[]} */
  #points = [];

  /** @param {(near: string) => void} choose an empty text for everywhere */
  constructor(choose) {
    this.#choose = choose;
    this.#svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    this.#svg.append(path);
    this.#path = path;
    new ResizeObserver(() => this.place()).observe(this.#box);
  }

  /** @param {Point[]} points @param {boolean} narrowed whether it is a part of the world already */
  show(points, narrowed) {
    this.#points = points;
    land().then((data) => this.#path?.setAttribute("d", data), () => { outline = null; });
    const whole = el("button", { type: "button", className: "more", textContent: said.world, hidden: !narrowed });
    whole.addEventListener("click", () => this.#choose(""));
    return el("div", {}, this.#box, whole);
  }

  /** Draw what is to be seen, as soon as there is room for it. */
  place() {
    const width = this.#box.clientWidth, height = this.#box.clientHeight;
    if (!width || !height) return;
    const lefts = this.#points.map(({ longitude }) => (longitude + 180) * 10), tops = this.#points.map(({ latitude }) => (90 - latitude) * 10);
    const [left, right, top, bottom] = this.#points.length
      ? [Math.min(...lefts), Math.max(...lefts), Math.min(...tops), Math.max(...tops)] : [0, 3600, 50, 1500];
    // With a margin, and never nearer than a few kilometres.
    const scale = Math.min(width / Math.max(0.6, (right - left) * 1.25), height / Math.max(0.4, (bottom - top) * 1.35), Math.max(width / 3600, 20));
    const wide = width / scale, high = height / scale, x = (left + right - wide) / 2, y = (top + bottom - high) / 2;
    this.#svg.setAttribute("viewBox", `${x} ${y} ${wide} ${high}`);
    const clusters = joined(this.#points, (at) => [((lefts[at] ?? 0) - x) * scale, ((tops[at] ?? 0) - y) * scale]);
    this.#box.replaceChildren(this.#svg, ...clusters.map((cluster) => {
      const button = el("button", { type: "button", className: "cluster", textContent: cluster.count > 999 ? `${Math.round(cluster.count / 1000)}k` : String(cluster.count) });
      const side = Math.min(44, 22 + 3 * Math.log2(cluster.count));
      button.setAttribute("aria-label", said.around(cluster.count, cluster.latitude, cluster.longitude));
      button.title = button.getAttribute("aria-label") ?? "";
      Object.assign(button.style, { left: `${cluster.x}px`, top: `${cluster.y}px`, width: `${side}px`, height: `${side}px` });
      // As far as its farthest point, and what was joined to that: at least what the eye takes for one place.
      const far = Math.max(...cluster.members.map((one) => distance(cluster, one))) + (Math.max(wide, high) / 10 / 256) * DEGREE;
      button.addEventListener("click", () => this.#choose(`${cluster.latitude.toFixed(4)},${cluster.longitude.toFixed(4)}~${Math.max(0.2, 1.1 * far).toFixed(1)}km`));
      return button;
    }));
  }
}

/** @param {Point} a @param {Point} b kilometres between them */
function distance(a, b) {
  const east = (a.longitude - b.longitude) * Math.cos(((a.latitude + b.latitude) / 2) * (Math.PI / 180));
  return DEGREE * Math.hypot(a.latitude - b.latitude, east);
}

/**
 * Points that would overlap on the screen as one.
 * @param {Point[]} points
 * @param {(at: number) => [number, number]} where
 */
function joined(points, where) {
  /** @type {{x: number, y: number, latitude: number, longitude: number, count: number, members: Point[]}[]} */
  const clusters = [];
  points.forEach((point, at) => {
    const [x, y] = where(at), near = clusters.find((one) => Math.hypot(one.x - x, one.y - y) < APART);
    if (!near) { clusters.push({ ...point, x, y, members: [point] }); return; }
    near.members.push(point);
    near.count += point.count;
  });
  return clusters;
}
