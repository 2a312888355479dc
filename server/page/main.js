// @ts-check
/** The page put together: the address says what is shown, and every act goes through it. */

import { Address, asks, format, NOTHING, parse, sameSearch } from "./address.js";
import { Answers } from "./ask.js";
import { Box } from "./chips.js";
import { Completion } from "./completion.js";
import { byId } from "./dom.js";
import { showDuplicates } from "./duplicates.js";
import { Facets } from "./facets.js";
import { Grid } from "./grid.js";
import { hearPictures, Pictures } from "./pictures.js";
import { call, owned, Owner } from "./requests.js";
import { reranks, Results } from "./results.js";
import { said as wording } from "./said.js";
import { Scrubber } from "./scrubber.js";
import * as searches from "./searches.js";
import { Selection } from "./selection.js";
import { Stack } from "./stack.js";
import { Start } from "./start.js";
import { followStatus } from "./status.js";
import { texts } from "./texts.js";
import { Viewer } from "./viewer.js";

const MOST = 2000, SLOW = 700;
const box = new Box((change) => go(change)), words = box.words, said = byId("said", HTMLElement), again = byId("again", HTMLButtonElement);
const rerank = byId("rerank", HTMLInputElement), kinds = byId("kinds", HTMLElement);
const pictures = new Pictures(), sending = new Owner(), opening = new Owner();
let ready = texts.ready;
let notice = "";
let slow = 0;
/** The result that is opened as soon as it has come. */
let wanted = -1;
/** The last of the results that was open. */
let opened = "";
/** What shall have the focus as soon as it is among the results. */
let awaited = "";
/** @type {import("./requests.js").Hit | null} Of a strip, on its way to be shown. */
let passing = null;
/** @type {AbortSignal | null} Of a picture that is being sent. */
let transfer = null;

const results = new Results(showResults);
const address = new Address(changed, () => ({ count: results.lists ? 0 : results.hits.length, top: Math.round(scrollY) }));
const stack = new Stack((item) => address.open(item));
const grid = new Grid(byId("grid", HTMLElement), {
  open: openAt,
  need: (first, last) => { if (results.lists) results.need(first, last); else if (last >= results.hits.length) results.more(); },
  check: (number, range) => selection.check(number, range),
  checked: (id) => selection.has(id),
  stack: (hit, at) => stack.show(hit, at, address.state, results.signal),
});
const selection = new Selection(() => results.hits, () => grid.mark());
const scrubber = new Scrubber(grid, () => results.hits);
const facets = new Facets((change) => address.go(change));
const start = new Start(() => facets.every(), (state) => address.go(state));
new Completion(box, () => facets.every(), (kept) => address.go(parse(kept.slice(1))));
const answers = new Answers({ open: (item) => address.open(item), search: (text) => address.go({ text }), changed: showAround });
/** What is leafed through. @returns {(import("./requests.js").Hit | undefined)[]} */
const leaves = () => (address.state.ask ? answers.evidence : results.hits);
const viewer = new Viewer({
  move: (step) => {
    const at = leaves().findIndex((hit) => hit?.id === address.state.item);
    if (at < 0) return;
    openAt(Math.max(0, Math.min(leaves().length - 1, at + step)));
    if (results.lists) results.need(at - 3, at + 4);
    else if (at + 5 > results.hits.length) results.more();
  },
  closed: () => {
    // Where the way led over other items, the first of them is what was left.
    const last = viewer.hit?.id ?? "", left = leaves().some((hit) => hit?.id === last) ? last : opened;
    address.close();
    const at = leaves().findIndex((hit) => hit?.id === left);
    // Results that are still on their way have it later.
    awaited = at < 0 ? left : "";
    if (address.state.ask) answers.focus(Math.max(0, at));
    else if (at < 0 && !asks(address.state)) words.focus();
    else grid.focus(Math.max(0, at));
  },
  like: (id) => address.go({ like: id, unlike: "", picture: "" }),
  unlike: (id) => address.go({ unlike: id }),
  open: (hit) => { passing = hit; address.open(hit.id, true); },
  search: (text) => address.go({ ...NOTHING, text }),
  // Whoever points at a part means that, and not the words that led here.
  part: (id, region) => address.go({ ...NOTHING, like: id, region }),
});

// ---- what the address says, shown ----

/** @param {import("./address.js").State} before @param {boolean} anew */
function changed(before, anew) {
  const state = address.state;
  // A picture that is being sent is given up for other words or pictures, not for another kind of results.
  if (anew || !sameSearch({ ...before, kind: state.kind, rerank: state.rerank }, state)) sending.renew();
  if (anew || !sameSearch(before, state)) search(anew);
  if (state.item) open(state.item);
  else { opening.renew(); viewer.close(); }
}

/** @param {boolean} [anew] */
function search(anew = false) {
  const state = address.state, place = address.entry.place;
  answers.clear();
  grid.clear();
  stack.close();
  selection.clear();
  byId("main", HTMLElement).dataset.view = state.ask ? "ask" : state.view;
  box.show(state);
  byId("sort", HTMLSelectElement).value = state.sort;
  for (const input of kinds.querySelectorAll("input")) input.checked = input.value === state.kind;
  document.title = texts.title(state.ask || state.text);
  showSwitch();
  facets.show(state);
  start.show(idle(state));
  if (!state.view && asks(state)) searches.remember(format(state));
  showKept();
  if (state.ask) {
    results.clear();
    clearTimeout(slow);
    scrubber.show(0, state, () => facets.every());
    tell("");
    answers.ask(state.ask, anew);
    return;
  }
  if (state.view) {
    results.clear();
    showResults();
    showDuplicates(results.signal, address);
    return;
  }
  notice = "";
  results.search(state, place?.count).then(async () => {
    if (!sameSearch(state, address.state)) return;
    if (results.error?.status === 404 && state.picture) await restore(state.picture);
    else if (place) {
      scrollTo({ top: place.top, behavior: "instant" });
      const at = results.hits.findIndex((hit) => hit?.id === awaited);
      if (at >= 0 && !viewer.open) grid.focus(at);
    }
    awaited = "";
  });
}

/** The server has forgotten the picture of this search. @param {string} picture */
async function restore(picture) {
  await owned(results.signal, async () => {
    if (await pictures.sendAgain(picture, results.signal)) search();
    else tell(texts.pictureLost, true);
  }, (error) => tell(texts.failed(error.message), true));
}

function showResults() {
  if (address.state.ask) return;
  const { hits, answer, error, loading } = results;
  clearTimeout(slow);
  again.hidden = true;
  grid.show(hits, address.state, results.signal);
  scrubber.show(results.lists ? hits.length : 0, address.state, () => facets.of(address.state));
  if (loading) {
    if (results.busy) tell(texts.busy);
    else if (!hits.length) {
      tell(texts.searching);
      slow = setTimeout(() => tell(texts.stillSearching), SLOW);
    }
    return;
  }
  if (error) {
    tell(hits.length ? texts.moreFailed(error.message) : texts.failed(error.message), !hits.length);
    again.hidden = !error.passing && error.status !== 409;
  } else if (address.state.view) tell("");
  else if (idle(address.state)) tell(transfer && !transfer.aborted ? texts.sending : notice || ready, !hits.length);
  else if (!asks(address.state) && transfer && !transfer.aborted) tell(texts.sending, !hits.length);
  else if (!answer) tell(transfer && !transfer.aborted ? texts.sending : notice || ready, true);
  else if (!hits.length) tell(texts.nothing, true);
  else {
    tell([results.lists ? wording.listed(hits.length, address.state.sort === "oldest") : texts.found(hits.length, Boolean(answer.next), answer.more), texts.milliseconds(answer.milliseconds), answer.model,
      answer.truncated ? texts.truncated : "", notice].filter(Boolean).join(" · "));
  }
  showAround();
  if (wanted >= 0 && hits[wanted]) openAt(wanted);
  grid.fill();
}

/** @param {string} text @param {boolean} [large] */
function tell(text, large = false) {
  if (said.textContent !== text) said.textContent = text;
  said.classList.toggle("large", large);
}

/** Whether a star is there to keep this search, and is on. */
function showKept() {
  const keep = byId("keep", HTMLButtonElement), on = searches.isSaved(format(address.state));
  keep.hidden = idle(address.state) || Boolean(address.state.view || address.state.ask || address.state.picture);
  keep.setAttribute("aria-pressed", String(on));
  keep.textContent = on ? "★" : "☆";
  keep.title = on ? wording.unsave : wording.save;
  keep.setAttribute("aria-label", keep.title);
}

/** Whether nothing is searched for and nothing chosen. @param {import("./address.js").State} state */
function idle(state) {
  return !asks(state) && !state.ask && !state.kind && !state.sort && !state.view;
}

/** What a switch says holds for this search, or it is out. */
function showSwitch() {
  const useful = reranks(address.state) || !asks(address.state);
  rerank.disabled = !useful;
  rerank.checked = address.state.rerank && useful;
  rerank.title = useful ? texts.rerank : texts.rerankIdle;
}

// ---- the item that is open ----

/** @param {number} number */
function openAt(number) {
  const hit = leaves()[number];
  wanted = hit ? -1 : number;
  if (hit) address.open(hit.id);
  else results.need(number, number + 1);
}

/** Where an item is among what is leafed through. @param {string} id */
function around(id) {
  const all = leaves(), at = all.findIndex((hit) => hit?.id === id);
  const position = at < 0 ? "" : texts.position(at + 1, all.length) + (results.next ? "+" : "");
  return { position, before: all[at - 1] ?? null, after: at < 0 ? null : all[at + 1] ?? null };
}

/** Results have come while an item is open. */
function showAround() {
  if (viewer.open && viewer.hit) viewer.place(around(viewer.hit.id));
}

/** @param {string} id */
function open(id) {
  const signal = opening.renew(), listed = leaves().find((hit) => hit?.id === id), words = address.state.ask || address.state.text;
  if (viewer.open && viewer.hit?.id === id) return;
  if (listed) opened = id;
  const hit = listed ?? (passing?.id === id ? passing : null);
  if (hit) {
    viewer.show(hit, words, around(id));
    return;
  }
  owned(signal, async () => viewer.show(await call(`/api/items/${id}`, signal), words, around(id)), (error) => {
    address.close();
    notice = error.message;
    tell(texts.failed(error.message), !results.hits.length);
  });
}

// ---- what a person does ----

/** @param {Partial<import("./address.js").State>} change @param {boolean} [refining] */
function go(change, refining = false) {
  const text = box.line;
  if (text.length > MOST) { tell(texts.tooLong(MOST)); words.focus(); return; }
  address.go({ text, view: "", ...change }, refining);
}

/** @param {File} file @param {number} others */
function take(file, others) {
  const signal = sending.renew();
  const say = (/** @type {string} */ text) => { tell(text, !results.hits.length); if (viewer.open) viewer.tell(text); };
  transfer = signal;
  say(texts.sending);
  owned(signal, async () => {
    const picture = await pictures.send(file, signal, () => say(texts.busy));
    signal.throwIfAborted();
    address.go({ picture, like: "" });
    if (others) { notice = texts.leftOut(others); showResults(); }
  }, (error) => {
    // Kept beside what results that are still on their way will say.
    notice = texts.failed(error.message);
    say(notice);
  }).finally(() => { if (transfer === signal) transfer = null; });
}

byId("form", HTMLFormElement).addEventListener("submit", (event) => { event.preventDefault(); go({}); });
kinds.addEventListener("change", (event) => {
  if (event.target instanceof HTMLInputElement) go({ kind: event.target.value }, true);
});
rerank.addEventListener("change", () => go({ rerank: rerank.checked }));
byId("sort", HTMLSelectElement).addEventListener("change", (event) => {
  if (event.target instanceof HTMLSelectElement) go({ sort: event.target.value }, true);
});
byId("keep", HTMLButtonElement).addEventListener("click", () => { searches.toggle(format(address.state)); showKept(); });
byId("ask", HTMLButtonElement).addEventListener("click", () => {
  const question = box.line.trim();
  if (question.length > MOST) tell(texts.tooLong(MOST));
  else if (question) address.go({ ...NOTHING, ask: question });
  else { tell(texts.askFirst); words.focus(); }
});
again.addEventListener("click", () => {
  if (address.state.ask) answers.again();
  else if (results.error?.status === 409) search();
  else results.again();
  words.focus({ preventScroll: true });
});
hearPictures(take, (id) => address.go({ like: id, unlike: "", picture: "" }), (message) => {
  // Results that are still on their way say it beside what they have to say.
  notice = message;
  tell(message, !results.hits.length);
  if (viewer.open) viewer.tell(message);
});

addEventListener("keydown", (event) => {
  if (viewer.open || event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target === words;
  if (event.key === "/" && !(event.target instanceof HTMLInputElement && event.target.type === "text")) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if (event.key === "Escape" && typing) words.blur();
  else if (event.key === "ArrowDown" && typing && grid.length) { event.preventDefault(); grid.focus(0); }
});

let resting = 0;
addEventListener("scroll", () => {
  clearTimeout(resting);
  resting = setTimeout(() => address.remember(), 250);
}, { passive: true });
addEventListener("pagehide", () => address.remember());

addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type === "text";
  if (viewer.open || typing || document.querySelector("dialog:modal")) return;
  if (event.key === "a" && (event.ctrlKey || event.metaKey) && (selection.size || event.target instanceof HTMLAnchorElement)) { event.preventDefault(); selection.all(); }
  else if (event.key === "Escape" && selection.size) selection.clear();
});
new ResizeObserver(([head]) => document.documentElement.style.setProperty("--head", `${head?.borderBoxSize[0]?.blockSize ?? 0}px`))
  .observe(document.querySelector("header") ?? document.body);

followStatus((empty) => {
  const text = empty ? texts.emptyIndex : texts.ready;
  if (text === ready) return;
  ready = text;
  if (!asks(address.state)) showResults();
}, () => {
  // What failed while the server was away is tried again.
  if (!again.hidden) again.click();
});
searches.take();
search();
if (address.state.item) open(address.state.item);
else if (!asks(address.state) && !address.state.ask) words.focus();
