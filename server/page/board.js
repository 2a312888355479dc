// @ts-check
/** The line of a video's moments with where it plays, and its storyboard, each picture at its time. */

import { byId, clock, el, times } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").FileMoment} FileMoment */
/** @typedef {(start: number, end: number) => void} Seek */

// Of a long film, so many pictures spread over it.
const MOST = 60, SMALL = 256;

export class Board {
  #line = byId("line", HTMLElement);
  #clock = byId("clock", HTMLElement);
  #list = byId("board", HTMLElement);
  #head = el("span", { className: "head" });
  #duration = 0;
  /** @type {{start: number, end: number, button: HTMLElement}[]} */
  #pictures = [];

  clear() {
    for (const part of [this.#line, this.#clock, this.#list]) {
      part.replaceChildren();
      part.hidden = true;
    }
    this.#pictures = [];
    this.#duration = 0;
  }

  /**
   * Mark the moments that were found.
   * @param {Hit} hit
   * @param {number} duration
   * @param {Seek} seek
   */
  mark(hit, duration, seek) {
    this.#duration = duration;
    const itself = { start: hit.start ?? 0, end: hit.end ?? duration };
    const moments = (hit.moments?.length ? hit.moments.slice() : [itself]).sort((a, b) => a.start - b.start);
    const buttons = moments.map((moment) => {
      const button = el("button", { type: "button", title: times(moment) });
      button.setAttribute("aria-label", clock(moment.start));
      button.style.left = `${(100 * moment.start) / duration}%`;
      button.style.width = `${(100 * (moment.end - moment.start)) / duration}%`;
      if (moment.start === hit.start) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => {
        for (const other of buttons) other.removeAttribute("aria-current");
        button.setAttribute("aria-current", "true");
        seek(moment.start, moment.end);
      });
      return button;
    });
    this.#line.replaceChildren(...buttons, this.#head);
    this.#line.hidden = this.#clock.hidden = false;
    this.at(hit.start ?? 0);
    moved(this.#line, buttons);
  }

  /** Show every moment of the file. @param {FileMoment[]} moments @param {Seek} seek */
  show(moments, seek) {
    const step = Math.max(1, moments.length / MOST);
    const chosen = moments.filter((_, at) => Math.floor(at / step) !== Math.floor((at - 1) / step));
    this.#pictures = chosen.map((moment, at) => {
      const image = el("img", { alt: "", src: `${moment.thumb_url}?size=${SMALL}`, loading: "lazy", decoding: "async" });
      const button = el("button", { type: "button" }, image, el("span", { textContent: clock(moment.start) }));
      button.setAttribute("aria-label", texts.playFrom(clock(moment.start)));
      button.addEventListener("click", () => seek(moment.start, moment.end));
      return { start: moment.start, end: chosen[at + 1]?.start ?? Infinity, button };
    });
    this.#list.replaceChildren(...this.#pictures.map(({ button }) => el("li", {}, button)));
    this.#list.hidden = chosen.length < 2;
    moved(this.#list, this.#pictures.map(({ button }) => button));
  }

  /** Where the video plays. @param {number} time */
  at(time) {
    if (!this.#duration) return;
    this.#head.style.left = `${Math.min(100, (100 * time) / this.#duration)}%`;
    this.#clock.textContent = `${clock(time)} / ${clock(this.#duration)}`;
    for (const { start, end, button } of this.#pictures) {
      const now = time >= start && time < end;
      if (now === button.hasAttribute("aria-current")) continue;
      if (!now) { button.removeAttribute("aria-current"); continue; }
      button.setAttribute("aria-current", "true");
      const item = button.parentElement;
      if (item) this.#list.scrollTo({ left: item.offsetLeft - (this.#list.clientWidth - item.offsetWidth) / 2 });
    }
  }
}

/** Arrows go from one to the next of these, and not from photo to photo. @param {HTMLElement} box @param {HTMLElement[]} buttons */
function moved(box, buttons) {
  box.onkeydown = (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    buttons[buttons.findIndex((button) => button === document.activeElement) + step]?.focus();
  };
}
