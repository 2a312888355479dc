// @ts-check
/** A picture on its stage: fitted into it, made larger and moved by wheel, fingers, double click and keys. What lies over the
 * picture lies in `frame`, and moves with it. */

import { el } from "./dom.js";

/** @typedef {{x: number, y: number}} Point */
/**
 * What happens on the stage that is no zoom: a swipe to a neighbour, the wish for a sharper picture, and a press that lasts or
 * a drag while a tool is in hand, both in fractions of the picture's sides.
 * @typedef {{swipe: (step: number) => void, sharper: () => void, press: (at: Point) => void,
 *   tool: () => {drag: (from: Point, to: Point) => void} | null}} Acts
 */

const STEP = 1.5, TAP = 300, NEAR = 30, STILL = 8, SWIPE = 50, PRESS = 550, PAN = 80, CONTROLS = 80;

export class Zoom {
  frame = el("div", { className: "frame" });
  #stage;
  #acts;
  #width = 0;
  #height = 0;
  /** How many pixels of the screen one of the picture takes where it fits. */
  #fit = 1;
  #scale = 1;
  #x = 0;
  #y = 0;
  /** @type {Map<number, Point>} */
  #fingers = new Map();
  /** @type {(Point & {touch: boolean}) | null} */
  #from = null;
  #several = false;
  #tapped = { x: 0, y: 0, at: -TAP };
  #press = 0;

  /** @param {HTMLElement} stage @param {Acts} acts */
  constructor(stage, acts) {
    this.#stage = stage;
    this.#acts = acts;
    stage.addEventListener("wheel", (event) => {
      if (!this.#holds) return;
      event.preventDefault();
      this.#zoomTo(this.#scale * Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.#pointOf(event));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#up(event));
    stage.addEventListener("pointercancel", (event) => this.#drop(event));
    // A press that lasts is ours; the menu of a mouse stays.
    stage.addEventListener("contextmenu", (event) => {
      if (this.#holds && event instanceof PointerEvent && event.pointerType !== "mouse") event.preventDefault();
    });
    new ResizeObserver(() => this.#lay()).observe(stage);
  }

  get #holds() { return this.frame.parentElement === this.#stage; }

  /** How much larger than fitted it is shown. */
  get scale() { return this.#holds ? this.#scale : 1; }

  /**
   * Put a picture on the stage, fitted; in place of one of the same size, the view stays as it is.
   * @param {HTMLImageElement} image
   * @param {number | null} width of the picture itself, in pixels
   * @param {number | null} height
   */
  show(image, width, height) {
    image.draggable = false;
    const before = this.frame.querySelector("img");
    if (before) before.replaceWith(image);
    else this.frame.prepend(image);
    if (!this.#holds) this.#stage.replaceChildren(this.frame);
    const size = () => {
      const w = width || image.naturalWidth, h = height || image.naturalHeight;
      if (image.parentElement !== this.frame || !w || !h || (w === this.#width && h === this.#height)) return;
      this.#width = w;
      this.#height = h;
      this.reset();
    };
    if (!width || !height) image.addEventListener("load", size);
    size();
  }

  /** Forget the picture that was there. */
  clear() {
    this.frame.replaceChildren();
    this.#width = this.#height = 0;
    this.#fingers.clear();
    this.#end();
    this.#scale = 1;
  }

  /** The whole picture. */
  reset() {
    this.#scale = 1;
    this.#x = this.#y = 0;
    this.#lay();
  }

  /** @param {number} direction 1 for larger, -1 for smaller */
  step(direction) { this.#zoomTo(this.#scale * STEP ** direction, null); }

  /** Whether a key was for the picture. @param {string} key */
  key(key) {
    if (!this.#holds) return false;
    if (key === "+" || key === "=") this.step(1);
    else if (key === "-") this.step(-1);
    else if (key === "0") this.reset();
    else if (this.#scale > 1 && key.startsWith("Arrow")) {
      this.#x += key === "ArrowLeft" ? PAN : key === "ArrowRight" ? -PAN : 0;
      this.#y += key === "ArrowUp" ? PAN : key === "ArrowDown" ? -PAN : 0;
      this.#lay();
    } else return false;
    return true;
  }

  /** @param {number} wanted @param {Point | null} about the middle of the stage where null */
  #zoomTo(wanted, about) {
    const scale = Math.max(1, Math.min(wanted, Math.max(4, 3 / this.#fit)));
    const { left, top } = this.#rest(), at = about ?? { x: this.#stage.clientWidth / 2, y: this.#stage.clientHeight / 2 };
    this.#x = at.x - left - ((at.x - left - this.#x) / this.#scale) * scale;
    this.#y = at.y - top - ((at.y - top - this.#y) / this.#scale) * scale;
    this.#scale = scale;
    this.#lay();
    const image = this.frame.querySelector("img");
    if (image && image.naturalWidth && scale > 1 && scale * this.#fit * this.#width * devicePixelRatio > image.naturalWidth) this.#acts.sharper();
  }

  /** Where the picture lies when it fits. */
  #rest() {
    const width = this.#width * this.#fit, height = this.#height * this.#fit;
    return { left: (this.#stage.clientWidth - width) / 2, top: (this.#stage.clientHeight - height) / 2, width, height };
  }

  #lay() {
    const { clientWidth, clientHeight } = this.#stage;
    if (!this.#width || !clientWidth) return;
    this.#fit = Math.min(1, clientWidth / this.#width, clientHeight / this.#height);
    const { left, top, width, height } = this.#rest();
    // No edge comes further in than the stage's, and what is smaller than the stage stays in its middle.
    const held = (/** @type {number} */ offset, /** @type {number} */ start, /** @type {number} */ size, /** @type {number} */ room) =>
      size * this.#scale <= room ? (size - size * this.#scale) / 2 : Math.max(room - start - size * this.#scale, Math.min(-start, offset));
    this.#x = held(this.#x, left, width, clientWidth);
    this.#y = held(this.#y, top, height, clientHeight);
    Object.assign(this.frame.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px`,
      transform: `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})` });
    this.#stage.classList.toggle("held", this.#scale > 1);
  }

  /** @param {MouseEvent} event @returns {Point} */
  #pointOf(event) {
    const box = this.#stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** @param {Point} at @returns {Point} */
  #fractionOf(at) {
    const { left, top, width, height } = this.#rest();
    const inside = (/** @type {number} */ value) => Math.max(0, Math.min(1, value));
    return { x: inside((at.x - left - this.#x) / this.#scale / width), y: inside((at.y - top - this.#y) / this.#scale / height) };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    const touch = event.pointerType !== "mouse";
    if (event.button || (event.target instanceof Element && event.target.closest("button, a")) || (!touch && !this.#holds)) return;
    // The lower edge of a video is its own: there a finger seeks.
    if (event.target instanceof HTMLVideoElement && event.offsetY > event.target.clientHeight - CONTROLS) return;
    const at = this.#pointOf(event);
    this.#fingers.set(event.pointerId, at);
    if (this.#holds) this.#stage.setPointerCapture(event.pointerId);
    clearTimeout(this.#press);
    this.#several = this.#fingers.size > 1;
    if (this.#several) return;
    this.#from = { ...at, touch };
    if (this.#holds && touch && !this.#acts.tool()) this.#press = setTimeout(() => this.#acts.press(this.#fractionOf(at)), PRESS);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#fingers.get(event.pointerId), from = this.#from;
    if (!before || !from) return;
    const at = this.#pointOf(event), others = [...this.#fingers].filter(([id]) => id !== event.pointerId);
    this.#fingers.set(event.pointerId, at);
    if (Math.hypot(at.x - from.x, at.y - from.y) > STILL) clearTimeout(this.#press);
    if (!this.#holds) return;
    const other = others[0]?.[1], tool = this.#acts.tool();
    if (other) {
      const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
      this.#x += (at.x - before.x) / 2;
      this.#y += (at.y - before.y) / 2;
      this.#zoomTo(this.#scale * (Math.hypot(at.x - other.x, at.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y))), middle);
    } else if (tool) tool.drag(this.#fractionOf(from), this.#fractionOf(at));
    else if (this.#scale > 1) {
      this.#x += at.x - before.x;
      this.#y += at.y - before.y;
      this.#lay();
    }
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const from = this.#from, single = !this.#several;
    this.#drop(event);
    if (!from || !single || this.#acts.tool()) return;
    const at = this.#pointOf(event), dx = at.x - from.x, dy = at.y - from.y;
    if (Math.hypot(dx, dy) > STILL) {
      if (from.touch && this.scale === 1 && Math.abs(dx) > SWIPE && Math.abs(dx) > 1.5 * Math.abs(dy)) this.#acts.swipe(dx < 0 ? 1 : -1);
      return;
    }
    const tapped = this.#tapped;
    if (this.#holds && event.timeStamp - tapped.at < TAP && Math.hypot(at.x - tapped.x, at.y - tapped.y) < NEAR) {
      this.#tapped = { x: 0, y: 0, at: -TAP };
      if (this.#scale > 1) this.reset();
      else this.#zoomTo(Math.max(2, 1 / this.#fit), at);
    } else this.#tapped = { ...at, at: event.timeStamp };
  }

  /** @param {PointerEvent} event */
  #drop(event) {
    this.#fingers.delete(event.pointerId);
    if (!this.#fingers.size) this.#end();
  }

  #end() {
    clearTimeout(this.#press);
    this.#from = null;
  }
}
