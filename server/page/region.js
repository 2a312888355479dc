// @ts-check
/** Search by a part of the picture: a rectangle that is drawn with a mouse or a finger, or moved and sized by keys. */

import { byId, el } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./zoom.js").Point} Point */

const STEP = 0.02, LEAST = 0.03, FIRST = 0.25;

export class RegionTool {
  #box = el("div", { className: "region", tabIndex: 0 });
  #button = byId("part", HTMLButtonElement);
  #bar = byId("part-bar", HTMLElement);
  #stage = byId("stage", HTMLElement);
  #frame;
  #left = FIRST;
  #top = FIRST;
  #width = 1 - 2 * FIRST;
  #height = 1 - 2 * FIRST;

  /**
   * @param {HTMLElement} frame what lies on the picture and moves with it
   * @param {(region: string) => void} search takes left,top,width,height in fractions of the picture's sides
   */
  constructor(frame, search) {
    this.#frame = frame;
    this.#box.setAttribute("role", "group");
    this.#box.setAttribute("aria-label", texts.region);
    this.#button.addEventListener("click", () => { if (this.on) this.stop(); else this.start(); });
    const go = () => search([this.#left, this.#top, this.#width, this.#height].map((side) => side.toFixed(3)).join(","));
    byId("part-search", HTMLButtonElement).addEventListener("click", go);
    byId("part-cancel", HTMLButtonElement).addEventListener("click", () => { this.stop(); this.#button.focus(); });
    this.#box.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const x = event.key === "ArrowRight" ? STEP : event.key === "ArrowLeft" ? -STEP : 0;
      const y = event.key === "ArrowDown" ? STEP : event.key === "ArrowUp" ? -STEP : 0;
      if (x || y) {
        if (event.shiftKey) this.#set(this.#left, this.#top, this.#width + x, this.#height + y);
        else this.#set(this.#left + x, this.#top + y, this.#width, this.#height);
      } else if (event.key === "Enter") go();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  get on() { return this.#button.getAttribute("aria-pressed") === "true"; }

  /** @param {Point} [about] the middle of the rectangle */
  start(about = { x: 0.5, y: 0.5 }) {
    this.#button.setAttribute("aria-pressed", "true");
    this.#bar.hidden = false;
    this.#stage.classList.add("drawing");
    this.#frame.append(this.#box);
    const side = 1 - 2 * FIRST;
    this.#set(about.x - side / 2, about.y - side / 2, side, side);
    this.#box.focus({ preventScroll: true });
  }

  stop() {
    this.#button.setAttribute("aria-pressed", "false");
    this.#bar.hidden = true;
    this.#stage.classList.remove("drawing");
    this.#box.remove();
  }

  /** Draw from corner to corner. @param {Point} from @param {Point} to */
  drag(from, to) {
    if (Math.abs(from.x - to.x) < LEAST || Math.abs(from.y - to.y) < LEAST) return;
    this.#set(Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(from.x - to.x), Math.abs(from.y - to.y));
  }

  /** @param {number} left @param {number} top @param {number} width @param {number} height */
  #set(left, top, width, height) {
    this.#width = Math.max(LEAST, Math.min(1, width));
    this.#height = Math.max(LEAST, Math.min(1, height));
    this.#left = Math.max(0, Math.min(1 - this.#width, left));
    this.#top = Math.max(0, Math.min(1 - this.#height, top));
    const part = (/** @type {number} */ value) => `${100 * value}%`;
    Object.assign(this.#box.style, { left: part(this.#left), top: part(this.#top), width: part(this.#width), height: part(this.#height) });
  }
}
