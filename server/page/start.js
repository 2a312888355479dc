// @ts-check
/** What is seen before anything is searched: examples from this index, searches of this browser, and what a search can say. */

import { byId, el, opensElsewhere } from "./dom.js";
import { format, NOTHING, parse } from "./address.js";
import { write } from "./line.js";
import { said } from "./said.js";
import * as searches from "./searches.js";

/** @typedef {import("./facets.js").All} All */

export class Start {
  #box = byId("start", HTMLElement);
  #every;
  #go;
  #visible = false;

  /** @param {() => Promise<All>} every all values of the index @param {(state: import("./address.js").State) => void} go */
  constructor(every, go) {
    this.#every = every;
    this.#go = go;
  }

  /** @param {boolean} visible */
  show(visible) {
    this.#visible = visible;
    this.#box.hidden = !visible;
    if (visible) this.#every().then((all) => { if (this.#visible) this.#fill(all); }, () => this.#fill(null));
  }

  /** @param {All | null} all */
  #fill(all) {
    const first = (/** @type {Record<string, number> | undefined} */ counts) => Object.keys(counts ?? {})[0] ?? "";
    const most = (/** @type {Record<string, number> | undefined} */ counts) => Object.entries(counts ?? {}).sort(([, a], [, b]) => b - a)[0]?.[0] ?? "";
    const place = (first(all?.places).split(",")[0] ?? "").trim(), year = most(all?.years), month = first(all?.months), camera = first(all?.cameras), folder = first(all?.folders);
    const tries = [
      place && { name: "near", value: place }, year && { name: "on", value: year }, folder && { name: "in", value: folder },
      camera && { name: "camera", value: camera }, all?.kinds.video && { name: "kind", value: "video" },
    ].filter((one) => one !== "" && one !== 0 && one !== undefined).map((one) => write(/** @type {import("./line.js").Filter} */ (one)));
    if (year && place) tries.unshift(`${write({ name: "near", value: place })} ${write({ name: "on", value: year })}`);
    /** @type {[string, string][]} */
    const forms = [["after", `after:${month || "2023-06"}`], ["on", `on:${year || "2023"}`], ["in", write({ name: "in", value: folder || "holiday" })],
      ["camera", write({ name: "camera", value: camera || "iphone" })], ["near", write({ name: "near", value: `${place || "Paris"}~20km` })],
      ["kind", "kind:video"], ["words", '"red car"'], ["without", "-people"]];
    const parts = [this.#links(said.try, tries.map((text) => ({ ...NOTHING, text })))];
    const recent = searches.recent().map(stateOf), kept = searches.saved().map(stateOf);
    if (kept.length) parts.push(this.#links(said.yours, kept, act(said.exportLink, async (button) => {
      await navigator.clipboard.writeText(searches.exported());
      button.textContent = said.copied;
    })));
    if (recent.length) parts.push(this.#links(said.remembered, recent.slice(0, 8), act(said.forget, () => { searches.forget(); this.show(true); })));
    const help = el("details", {}, el("summary", { textContent: said.howTo }), el("dl", {}, ...forms.flatMap(([name, text]) => [
      el("dt", {}, this.#link({ ...NOTHING, text })), el("dd", { textContent: said.forms[name] ?? "" })])));
    this.#box.replaceChildren(...parts.filter((one) => one.querySelector("a")), help);
  }

  /** @param {string} title @param {import("./address.js").State[]} states @param {HTMLElement[]} acts */
  #links(title, states, ...acts) {
    return el("p", { className: "links" }, el("b", { textContent: title }), ...states.map((state) => this.#link(state)), ...acts);
  }

  /** @param {import("./address.js").State} state */
  #link(state) {
    const link = el("a", { href: format(state), textContent: searches.lineOf(format(state)), dir: "auto" });
    link.addEventListener("click", (event) => {
      if (opensElsewhere(event)) return;
      event.preventDefault();
      this.#go(state);
    });
    return link;
  }
}

/** @param {string} address */
const stateOf = (address) => parse(new URL(address, location.origin).search);

/** @param {string} text @param {(button: HTMLButtonElement) => void} done */
function act(text, done) {
  const button = el("button", { type: "button", textContent: text });
  button.addEventListener("click", () => done(button));
  return button;
}
