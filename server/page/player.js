// @ts-check
/** A video that is played from a moment of it, to that moment's end. Of what a browser cannot play, previews of its moments. */

import { el, nameOf } from "./dom.js";
import { refusalOf } from "./images.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").FileMoment} FileMoment */
/**
 * What a player tells: how long the video is once that is known, the time it plays at, and that it cannot be played and why.
 * @typedef {{ready: (duration: number) => void, at: (time: number) => void, failed: (why: string) => void}} Ears
 */

const MOVING = /\.(gif|webp)$/i, LONGEST = 60;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Player {
  #video;
  #hit;
  #ears;
  #moments;
  #signal;
  /** @type {number | null} Where to stop; null once somebody chose another place. */
  #until;
  #jump = false;
  /** @type {number | null} Where the preview that plays begins in the video; null while the file itself plays. */
  #offset = null;

  /**
   * Show a moment in `stage`, until the signal is aborted.
   * @param {Hit} hit
   * @param {string} poster
   * @param {HTMLElement} stage
   * @param {Promise<FileMoment[]>} moments all those of the file
   * @param {AbortSignal} signal
   * @param {Ears} ears
   */
  constructor(hit, poster, stage, moments, signal, ears) {
    this.#hit = hit;
    this.#ears = ears;
    this.#moments = moments;
    this.#signal = signal;
    this.#until = hit.end;
    const video = el("video", { controls: true, autoplay: !still.matches, muted: true, playsInline: true, preload: "metadata", poster });
    this.#video = video;
    if (MOVING.test(hit.path)) {
      const image = el("img", { alt: nameOf(hit), src: hit.media_url });
      image.addEventListener("error", () => this.#tell());
      stage.replaceChildren(image);
      return;
    }
    video.setAttribute("aria-label", nameOf(hit));
    video.addEventListener("loadedmetadata", () => {
      if (this.#offset !== null) return;
      // Some play the sound of what they cannot show.
      if (!video.videoWidth) { this.#unplayable(stage); return; }
      this.seek(hit.start ?? 0, hit.end, false);
      ears.ready(video.duration);
    });
    video.addEventListener("seeking", () => {
      if (!this.#jump) this.#until = null;
      this.#jump = false;
    });
    video.addEventListener("timeupdate", () => {
      ears.at(video.currentTime + (this.#offset ?? 0));
      if (this.#until === null || video.seeking || video.currentTime < this.#until) return;
      this.#until = null;
      video.pause();
    });
    video.addEventListener("error", () => this.#unplayable(stage));
    // A video that is only taken out of the document goes on loading.
    signal.addEventListener("abort", () => { video.removeAttribute("src"); video.load(); }, { once: true });
    video.src = hit.media_url;
    stage.replaceChildren(video);
  }

  /** Play a stretch. @param {number} start @param {number | null} end @param {boolean} [plays] */
  seek(start, end, plays = true) {
    if (this.#offset !== null) { this.#preview(start, end); return; }
    this.#jump = true;
    this.#until = end;
    this.#video.currentTime = start;
    if (plays) this.#video.play().catch(() => {});
  }

  /** @param {HTMLElement} stage */
  #unplayable(stage) {
    const hit = this.#hit;
    if (this.#signal.aborted) return;
    if (this.#offset !== null || hit.start === null) { this.#tell(); return; }
    refusalOf(hit.media_url, this.#signal).then(async (why) => {
      if (why) { this.#ears.failed(why); return; }
      const moments = await this.#moments;
      stage.append(el("p", { className: "note", textContent: texts.preview }));
      this.#ears.ready(Math.max(hit.end ?? 0, ...moments.map((moment) => moment.end)));
      this.#preview(hit.start ?? 0, hit.end);
    }).catch(() => {});
  }

  /** Show a stretch in a form that every browser plays; its time begins at nought. @param {number} start @param {number | null} end */
  async #preview(start, end) {
    this.#offset = start;
    this.#until = null;
    const moments = await this.#moments;
    if (this.#signal.aborted) return;
    // Of a text about a video there is no preview: the moment it is said in has one.
    const moment = moments.find((one) => one.start <= start && start < one.end) ?? moments[0];
    const id = this.#hit.kind === "video" ? this.#hit.id : moment?.id;
    if (!id) { this.#tell(); return; }
    const last = Math.min(end ?? moment?.end ?? start + LONGEST, start + LONGEST);
    this.#video.src = `/preview/${id}?${new URLSearchParams({ start: String(start), end: String(last) })}`;
    if (!still.matches) this.#video.play().catch(() => {});
  }

  #tell() { refusalOf(this.#hit.media_url, this.#signal).then(this.#ears.failed, () => {}); }
}
