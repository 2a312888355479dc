// @ts-check
/** Every request of the page. Each belongs to an owner, and ends when its owner turns to something else. */

import { texts } from "./texts.js";

/**
 * @typedef {{start: number, end: number, score: number}} Moment
 * @typedef {{id: string, start: number, end: number, thumb_url: string}} FileMoment
 * @typedef {{kind: "image" | "video" | "text", place: string, folder: string, moments: FileMoment[],
 *   texts: {id: string, text_kind: string | null, start: number | null, end: number | null, text: string}[]}} HeldFile
 * @typedef {{id: string, kind: "image" | "video" | "text", path: string, start: number | null, end: number | null,
 *   text: string | null, width: number | null, height: number | null, taken_at?: string | null, camera?: string | null,
 *   latitude?: number | null, longitude?: number | null, place?: string | null, rating?: number | null, words?: string | null,
 *   date_source?: string | null, media_url: string, thumb_url: string, score?: number,
 *   relevance?: number | null, moments?: Moment[], copies?: string[], matched_words?: string[]}} Hit
 * @typedef {{hits: Hit[], next: string | null, more: boolean, truncated: boolean, picture: string | null,
 *   milliseconds: number, model: string}} SearchAnswer
 */

/** The event that tells that the server did not answer. */
export const UNREACHED = "mmsearch-unreached";

/** What the server said, or that it said nothing (`status` 0). `wait` are the seconds after which it wants to be asked again. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status @param {number} [wait] */
  constructor(message, status, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }

  /** Whether the same request may succeed a little later. */
  get passing() { return this.status === 0 || this.status === 503; }
}

/** Whoever shows something: what was asked for on its behalf is called off as soon as it shows something else. */
export class Owner {
  #controller = new AbortController();

  /** Call off what is under way; the signal is for what comes now. */
  renew() {
    this.#controller.abort();
    this.#controller = new AbortController();
    return this.#controller.signal;
  }

  /** Call off what is under way. */
  end() { this.#controller.abort(); }

  /** For more of the same. */
  get signal() { return this.#controller.signal; }
}

/**
 * The answer to a request as JSON. Throws `ApiError`, or the signal's reason once it is aborted.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {object | FormData} [body]
 * @returns {Promise<any>}
 */
export async function call(path, signal, body) {
  const reply = await send(path, signal, body);
  try {
    return await reply.json();
  } catch (error) {
    signal.throwIfAborted();
    throw new ApiError(texts.odd(reply.status), reply.status);
  }
}

/**
 * The answer as a file. Throws as `call` does.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {object} [body]
 */
export async function fetchBlob(path, signal, body) {
  const reply = await send(path, signal, body);
  try {
    return await reply.blob();
  } catch (error) {
    signal.throwIfAborted();
    throw new ApiError(texts.noServer, 0);
  }
}

/**
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {object | FormData} [body]
 */
async function send(path, signal, body) {
  /** @type {RequestInit} */
  const options = { signal };
  if (body instanceof FormData) Object.assign(options, { method: "POST", body });
  else if (body) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  }
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    signal.throwIfAborted();
    dispatchEvent(new Event(UNREACHED));
    throw new ApiError(texts.noServer, 0);
  }
  signal.throwIfAborted();
  if (reply.ok) return reply;
  const value = await reply.json().catch(() => ({}));
  signal.throwIfAborted();
  throw new ApiError(String(value.error || texts.odd(reply.status)), reply.status, Number(reply.headers.get("Retry-After")) || 0);
}

/**
 * Do `work`, and again after growing pauses while the server is only busy. Throws what the last try threw.
 * @template T
 * @param {AbortSignal} signal
 * @param {() => Promise<T>} work
 * @param {() => void} [busy] told before each pause
 * @returns {Promise<T>}
 */
export async function patiently(signal, work, busy = () => {}) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await work();
    } catch (error) {
      const again = error instanceof ApiError && error.status === 503 && error.wait > 0 && tries < 4;
      if (!again) throw error;
      busy();
      await pause(Math.max(1000 * error.wait, 500 * 2 ** tries), signal);
    }
  }
}

/**
 * Throws the signal's reason when it is aborted meanwhile.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) { reject(signal.reason); return; }
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal.removeEventListener("abort", stop); resolve(); }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Run something whose end as called off is nothing to tell; everything else is for `failed`.
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} work
 * @param {(error: ApiError) => void} failed
 */
export async function owned(signal, work, failed) {
  try {
    await work();
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    failed(error);
  }
}
