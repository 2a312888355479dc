// @ts-check
/** The foot of the page: what the index holds, and what happens to it. */

import { byId } from "./dom.js";
import { call, Owner } from "./requests.js";
import { texts } from "./texts.js";

const IDLE = 15_000, WATCHED = 2000, BUSY = 700;

/** Look at the server again and again. @param {(empty: boolean) => void} heard */
export function followStatus(heard) {
  const holds = byId("holds", HTMLElement), doing = byId("doing", HTMLElement), work = byId("work", HTMLProgressElement);
  const owner = new Owner();
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
      }
    } catch {
      set(holds, texts.noStatus);
    }
    setTimeout(look, wait);
  };
  look();
}

/** Said aloud where it changes, so only then. @param {HTMLElement} node @param {string} text */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
