// @ts-check
/** The foot of the page: what the index holds, what happens to it, and whether the server is there. */

import { byId } from "./dom.js";
import { call, Owner, UNREACHED } from "./requests.js";
import { texts } from "./texts.js";

const IDLE = 15_000, WATCHED = 2000, BUSY = 700, AWAY = 3000;

/**
 * Look at the server again and again.
 * @param {(empty: boolean) => void} heard
 * @param {() => void} back told when it answers after it did not
 */
export function followStatus(heard, back) {
  const holds = byId("holds", HTMLElement), doing = byId("doing", HTMLElement), work = byId("work", HTMLProgressElement);
  const owner = new Owner();
  let away = false, next = 0;
  const lost = () => {
    away = true;
    work.hidden = true;
    set(holds, texts.noStatus);
    set(doing, "");
  };
  const look = async () => {
    let wait = IDLE;
    try {
      if (!document.hidden) {
        const now = await call("/api/status", owner.signal);
        /** @type {[number, string][]} */
        const counts = [[now.images, texts.pictures], [now.videos, texts.videos], [now.texts, texts.documents]];
        set(holds, counts.filter(([count]) => count).map(([count, name]) => `${count.toLocaleString("en")} ${name}`).join(" · ") || texts.holdsNothing);
        heard(!now.items);
        const busy = now.watch?.state === "indexing";
        work.hidden = !busy;
        if (busy) { work.max = Math.max(1, now.watch.total); work.value = now.watch.done; }
        if (now.watch) wait = busy ? BUSY : WATCHED;
        set(doing, now.watch?.error ? texts.indexingStopped(now.watch.error) : busy ? texts.indexing(now.watch.done, now.watch.total) : "");
        if (away) { away = false; back(); }
      }
    } catch {
      lost();
      wait = AWAY;
    }
    clearTimeout(next);
    next = setTimeout(look, wait);
  };
  // What the foot of the page counts is not there any more, as soon as anything says so.
  addEventListener(UNREACHED, () => {
    if (away) return;
    lost();
    clearTimeout(next);
    next = setTimeout(look, AWAY);
  });
  look();
}

/** Said aloud where it changes, so only then. @param {HTMLElement} node @param {string} text */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
