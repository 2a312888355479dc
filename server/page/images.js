// @ts-check
/** Pictures that come from the server, which may be busy: they are tried again, and only what is gone is called so. */

import { pause } from "./requests.js";

const TRIES = 7;

/**
 * Show `src` in an image. `failed` hears at most once: true where the picture is gone, false where it did not come after many tries.
 * @param {HTMLImageElement} image
 * @param {string} src
 * @param {AbortSignal} signal
 * @param {(gone: boolean) => void} failed
 */
export function showImage(image, src, signal, failed) {
  let tries = 0;
  const again = async () => {
    try {
      const status = await statusOf(src, signal);
      if (status === 404 || status === 410) { stop(); failed(true); return; }
      tries += 1;
      if (tries >= TRIES) { stop(); failed(false); return; }
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
 * The HTTP status of an address, 0 where the server does not answer. Throws once the signal is aborted.
 * @param {string} src
 * @param {AbortSignal} signal
 */
export async function statusOf(src, signal) {
  try {
    return (await fetch(src, { method: "HEAD", signal })).status;
  } catch {
    signal.throwIfAborted();
    return 0;
  }
}
