// @ts-check
/** A video that is played from a moment of it, to that moment's end, with its other moments on a line under it. Of what a browser
 * cannot play, previews of the moments are shown. */

import { clock, el, nameOf, times } from "./dom.js";
import { refusalOf } from "./images.js";
import { texts } from "./texts.js";

/** @typedef {import("./requests.js").Hit} Hit */
/** @typedef {import("./requests.js").Moment} Moment */

const MOVING = /\.(gif|webp)$/i;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Show a moment in `stage`, and its marks in `line`, until the signal is aborted.
 * @param {Hit} hit
 * @param {string} poster
 * @param {HTMLElement} stage
 * @param {HTMLElement} line
 * @param {AbortSignal} signal
 * @param {(why: string) => void} failed
 */
export function play(hit, poster, stage, line, signal, failed) {
  if (MOVING.test(hit.path)) {
    const image = el("img", { alt: nameOf(hit), src: hit.media_url });
    image.addEventListener("error", () => tellFailure(hit, signal, failed));
    stage.replaceChildren(image);
    return;
  }
  const video = el("video", { controls: true, autoplay: !still.matches, muted: true, playsInline: true, preload: "metadata", poster });
  video.setAttribute("aria-label", nameOf(hit));
  /** @type {number | null} Where to stop; null once somebody chose another place. */
  let until = hit.end;
  let jump = false, previewed = false;
  const seek = (/** @type {number} */ to, /** @type {number | null} */ end) => {
    jump = true;
    until = end;
    video.currentTime = to;
  };
  /** Show a stretch in a form that every browser plays; its time begins at nought. */
  const preview = (/** @type {Moment | Hit} */ stretch) => {
    previewed = true;
    until = null;
    video.src = `${hit.media_url.replace("/media/", "/preview/")}?${new URLSearchParams({ start: String(stretch.start), end: String(stretch.end) })}`;
    video.play().catch(() => {});
  };
  const failedHere = () => {
    if (signal.aborted) return;
    if (previewed || hit.start === null) { tellFailure(hit, signal, failed); return; }
    refusalOf(hit.media_url, signal).then((why) => {
      if (why) { failed(why); return; }
      stage.append(el("p", { className: "note", textContent: texts.preview }));
      mark(line, hit, Math.max(...(hit.moments ?? []).map((moment) => moment.end), hit.end ?? 0), preview);
      preview(hit);
    }, () => {});
  };
  video.addEventListener("loadedmetadata", () => {
    if (previewed) return;
    // Some play the sound of what they cannot show.
    if (!video.videoWidth) { failedHere(); return; }
    seek(hit.start ?? 0, hit.end);
    mark(line, hit, video.duration, (moment) => {
      seek(moment.start, moment.end);
      video.play().catch(() => {});
    });
  });
  video.addEventListener("seeking", () => {
    if (!jump) until = null;
    jump = false;
  });
  video.addEventListener("timeupdate", () => {
    if (until === null || video.seeking || video.currentTime < until) return;
    until = null;
    video.pause();
  });
  video.addEventListener("error", failedHere);
  // A video that is only taken out of the document goes on loading.
  signal.addEventListener("abort", () => { video.removeAttribute("src"); video.load(); }, { once: true });
  video.src = hit.media_url;
  stage.replaceChildren(video);
}

/** @param {Hit} hit @param {AbortSignal} signal @param {(why: string) => void} failed */
function tellFailure(hit, signal, failed) {
  refusalOf(hit.media_url, signal).then(failed, () => {});
}

/**
 * @param {HTMLElement} line
 * @param {Hit} hit
 * @param {number} duration
 * @param {(moment: Moment) => void} choose
 */
function mark(line, hit, duration, choose) {
  const moments = (hit.moments ?? []).slice().sort((a, b) => a.start - b.start);
  const buttons = moments.map((moment) => {
    const button = el("button", { type: "button", title: times(moment) });
    button.setAttribute("aria-label", clock(moment.start));
    button.style.left = `${(100 * moment.start) / duration}%`;
    button.style.width = `${(100 * (moment.end - moment.start)) / duration}%`;
    if (moment.start === hit.start) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      for (const other of buttons) other.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      choose(moment);
    });
    return button;
  });
  line.replaceChildren(...buttons);
  line.hidden = moments.length === 0;
  line.onkeydown = (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    // Of the marks, not of the photos around this one.
    event.preventDefault();
    event.stopPropagation();
    buttons[buttons.findIndex((button) => button === document.activeElement) + step]?.focus();
  };
}
