// @ts-check
/** Pictures that come from the server, which may be busy: they are tried again, and only what is gone is called so. */

import { pause } from "./requests.js";
import { texts } from "./texts.js";

const TRIES = 7;

/**
 * Show `src` in an image. `failed` hears at most once: why the picture is not served, or nothing where it did not come after many tries.
 * @param {HTMLImageElement} image
 * @param {string} src
 * @param {AbortSignal} signal
 * @param {(why: string) => void} failed
 */
export function showImage(image, src, signal, failed) {
  let tries = 0;
  const again = async () => {
    try {
      const why = await refusalOf(src, signal);
      if (why) { stop(); failed(why); return; }
      tries += 1;
      if (tries >= TRIES) { stop(); failed(""); return; }
      await pause(Math.min(30_000, 500 * 2 ** tries) * (0.75 + Math.random() / 2), signal);
      // Set anew, so that the browser asks again.
      image.src = src;
    } catch {
      stop();
    }
  };
  const stop = () => image.removeEventListener("error", again);
  image.addEventListener("error", again);
  image.addEventListener("load", () => { tries = 0; });
  image.src = src;
}

/**
 * Why the server does not have what is at an address, in its own words; nothing where it has it, or does not answer. Throws once the
 * signal is aborted.
 * @param {string} src
 * @param {AbortSignal} signal
 * @returns {Promise<string>}
 */
export async function refusalOf(src, signal) {
  try {
    const { status } = await fetch(src, { method: "HEAD", signal });
    if (status !== 404 && status !== 410) return "";
    const answer = await (await fetch(src, { signal })).json().catch(() => ({}));
    signal.throwIfAborted();
    return String(answer.error || texts.goneFile);
  } catch {
    signal.throwIfAborted();
    return "";
  }
}
