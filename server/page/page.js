"use strict";
const $ = (id) => document.getElementById(id);
const words = $("words"), grid = $("grid"), said = $("said"), viewer = $("viewer");
const PAGE = 40, HEIGHT = 190;
let state = { text: "", kind: "", like: "", unlike: "", rerank: false, picture: null };
let hits = [], next = null, loading = false, shown = -1, run = 0, opener = null;
// Uploaded pictures live as long as the page: an address cannot hold them, but going back can.
const pictures = new Map();

const clock = (s) => {
  const t = Math.floor(s), h = Math.floor(t / 3600), m = Math.floor(t / 60) % 60;
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(t % 60)}` : `${two(m)}:${two(t % 60)}`;
};
const el = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const nameOf = (hit) => hit.path.split(/[\\/]/).pop();

async function call(path, body) {
  const form = body instanceof FormData;
  const reply = await fetch(path, body === undefined ? {} : {
    method: "POST", body: form ? body : JSON.stringify(body), headers: form ? {} : { "Content-Type": "application/json" },
  });
  const value = await reply.json().catch(() => ({ error: `the server answered ${reply.status}` }));
  if (!reply.ok) throw new Error(value.error || `the server answered ${reply.status}`);
  return value;
}

// ---- the address holds the search ----

function address() {
  const q = new URLSearchParams();
  if (state.text) q.set("q", state.text);
  if (state.kind) q.set("kind", state.kind);
  if (state.like) q.set("like", state.like);
  if (state.unlike) q.set("unlike", state.unlike);
  if (state.rerank) q.set("rerank", "1");
  return q.size ? `/?${q}` : "/";
}
function fromAddress(picture) {
  const q = new URLSearchParams(location.search);
  state = {
    text: q.get("q") || "", kind: q.get("kind") || "", like: q.get("like") || "", unlike: q.get("unlike") || "",
    rerank: q.get("rerank") === "1", picture: pictures.has(picture) ? picture : null,
  };
}
function go(change) {
  Object.assign(state, change);
  history.pushState({ picture: state.picture }, "", address());
  show();
}
addEventListener("popstate", (event) => {
  if (viewer.open) viewer.close();
  fromAddress(event.state && event.state.picture);
  show();
});

// ---- searching ----

const asks = () => state.text.trim() || state.like || state.picture !== null;

function show() {
  words.value = state.text;
  for (const one of document.querySelectorAll("[name=kind]")) one.checked = one.value === state.kind;
  $("rerank").checked = state.rerank;
  chips();
  hits = []; next = null; shown = -1; run += 1;
  grid.replaceChildren();
  $("answer").hidden = true;
  said.classList.remove("large");
  document.title = state.text ? `${state.text} – mmsearch` : "mmsearch";
  if (asks()) load(true);
  else tell(empty, true);
}
const READY = "Type what you are looking for, or drop a picture.";
const BARE = "This index is empty. Put pictures into its folder and run: mmsearch index FOLDER";
let empty = READY;
function tell(text, large = false) {
  said.textContent = text;
  said.classList.toggle("large", large);
}
function request(cursor) {
  const value = { k: PAGE };
  if (state.text.trim()) value.text = state.text;
  if (state.kind) value.kind = state.kind;
  if (state.like) value.image_id = state.like;
  if (state.unlike) value.unlike_id = state.unlike;
  if (state.rerank && state.text.trim() && state.kind !== "text") value.rerank = true;
  if (cursor) value.cursor = cursor;
  if (state.picture === null) return value;
  const form = new FormData();
  for (const [name, one] of Object.entries(value)) form.append(name, String(one));
  form.append("image", pictures.get(state.picture).file);
  return form;
}
async function load(first) {
  if (loading && !first) return;
  loading = true;
  const mine = run, slow = setTimeout(() => mine === run && tell("Still searching …"), 700);
  if (first) tell("Searching …");
  try {
    const found = await call("/api/search", request(first ? null : next));
    if (mine !== run) return;
    next = found.next;
    hits.push(...found.hits);
    if (!hits.length) tell("Nothing found. Try other words, or another kind.", true);
    else tell(`${hits.length}${next ? "+" : ""} found · ${found.milliseconds.toFixed(0)} ms · ${found.model}`);
    lay();
  } catch (error) {
    if (mine === run) tell(`That did not work: ${error.message}`, !hits.length);
    next = null;
  } finally {
    clearTimeout(slow);
    if (mine === run) loading = false;
  }
  if (mine === run && next && $("more").getBoundingClientRect().top < innerHeight + 400) load(false);
}
new IntersectionObserver((seen) => seen[0].isIntersecting && next && load(false), { rootMargin: "600px" }).observe($("more"));

// ---- a justified grid: every row as wide as the page ----

function lay() {
  const width = grid.clientWidth, gap = 6, goal = innerWidth < 720 ? 120 : HEIGHT;
  let row = [], sum = 0, at = 0;
  const place = (height) => {
    for (const [number, ratio] of row) {
      const item = tile(number);
      item.style.width = `${Math.floor(ratio * height)}px`;
      item.style.height = `${Math.round(height)}px`;
    }
    row = []; sum = 0;
  };
  for (; at < hits.length; at++) {
    const hit = hits[at];
    const ratio = hit.kind === "text" ? 1.6 : Math.min(2.6, Math.max(0.5, (hit.width || 4) / (hit.height || 3)));
    row.push([at, ratio]); sum += ratio;
    const height = (width - gap * (row.length - 1) - row.length) / sum;
    if (height <= goal) place(height);
  }
  if (row.length) place(Math.min(goal, (width - gap * (row.length - 1) - row.length) / sum));
}
function tile(number) {
  if (grid.children[number]) return grid.children[number];
  const hit = hits[number], button = el("button", { type: "button" });
  const when = hit.kind === "video" ? `${clock(hit.start)}–${clock(hit.end)}` : "";
  const sure = hit.relevance === null ? hit.score.toFixed(3) : `${Math.round(100 * hit.relevance)} %`;
  button.setAttribute("aria-label", [hit.text || nameOf(hit), when, `relevance ${sure}`].filter(Boolean).join(", "));
  if (hit.kind === "text") button.append(el("span", { className: "text", textContent: hit.text }));
  else {
    const image = el("img", { alt: "", loading: "lazy", decoding: "async", src: `${hit.thumb_url}?size=384` });
    image.addEventListener("error", () => image.replaceWith(
      el("span", { className: "gone", textContent: `${nameOf(hit)} is gone or cannot be read` })));
    button.append(image, el("span", { className: "label" }, el("span", { textContent: when }), el("span", { textContent: sure })));
  }
  button.addEventListener("click", () => look(number));
  const item = el("li", {}, button);
  grid.append(item);
  return item;
}
let waiting = 0;
addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(lay); });

// ---- the viewer ----

async function look(number) {
  const hit = hits[number];
  if (!hit) return;
  if (!viewer.open) { opener = document.activeElement; viewer.showModal(); }
  shown = number;
  const stage = $("stage");
  stage.replaceChildren();
  $("line").hidden = true;
  $("caption").textContent = hit.text || "";
  $("name").textContent = nameOf(hit);
  $("open").href = hit.kind === "video" ? `${hit.media_url}#t=${hit.start}` : hit.media_url;
  for (const id of ["why", "describe"]) $(id).hidden = hit.kind === "text" || (id === "why" && !state.text.trim());
  if (hit.kind === "video") play(hit);
  else if (hit.kind === "image") {
    const image = el("img", { alt: nameOf(hit), src: `${hit.thumb_url}?size=1024` });
    image.addEventListener("error", () => stage.replaceChildren(el("p", { textContent: "This file is gone or cannot be read." })));
    stage.append(image);
  } else stage.append(el("p", { textContent: hit.text }));
  facts(hit, {});
  if (number + 5 > hits.length && next) load(false);
  try {
    const item = await call(`/api/items/${hit.id}`);
    if (shown === number) facts(hit, item);
  } catch (error) { if (shown === number) $("caption").textContent = error.message; }
}
function facts(hit, item) {
  const rows = [["Score", hit.score.toFixed(4)]];
  if (hit.relevance !== null) rows.push(["Relevant", `${Math.round(100 * hit.relevance)} %`]);
  if (hit.start !== null) rows.push(["Time", `${clock(hit.start)}–${clock(hit.end)}`]);
  if (hit.width) rows.push(["Size", `${hit.width} × ${hit.height}`]);
  if (item.taken_at) rows.push(["Taken", item.taken_at.replace("T", " ")]);
  if (item.camera) rows.push(["Camera", item.camera]);
  if (item.latitude !== null && item.latitude !== undefined) rows.push(["Place", `${item.latitude.toFixed(4)}, ${item.longitude.toFixed(4)}`]);
  rows.push(["File", hit.path]);
  $("facts").replaceChildren(...rows.flatMap(([a, b]) => [el("dt", { textContent: a }), el("dd", { textContent: b })]));
}
function play(hit) {
  const moving = /\.(gif|webp)$/i.test(hit.path);
  const video = moving ? el("img", { alt: nameOf(hit), src: hit.media_url })
    : el("video", { controls: true, autoplay: true, muted: true, playsInline: true, src: hit.media_url, poster: `${hit.thumb_url}?size=1024` });
  $("stage").append(video);
  if (moving) return;
  video.setAttribute("aria-label", nameOf(hit));
  video.addEventListener("loadedmetadata", () => {
    video.currentTime = hit.start;
    const line = $("line");
    line.replaceChildren(...hit.moments.slice().sort((a, b) => a.start - b.start).map((moment) => {
      const mark = el("button", { type: "button", title: `${clock(moment.start)}–${clock(moment.end)}` });
      mark.setAttribute("aria-label", `Play from ${clock(moment.start)}`);
      mark.style.left = `${100 * moment.start / video.duration}%`;
      mark.style.width = `${100 * (moment.end - moment.start) / video.duration}%`;
      if (moment.start === hit.start) mark.setAttribute("aria-current", "true");
      mark.addEventListener("click", () => { video.currentTime = moment.start; video.play(); });
      return mark;
    }));
    line.hidden = hit.moments.length === 0;
  }, { once: true });
  video.addEventListener("error", () => $("stage").replaceChildren(
    el("img", { alt: nameOf(hit), src: `${hit.thumb_url}?size=1024` }),
    el("p", { textContent: "This browser cannot play the file." })));
}
$("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("close", () => {
  $("stage").replaceChildren();
  const tile = grid.children[shown];
  (tile ? tile.firstChild : opener || words).focus();
});
$("like").addEventListener("click", () => { const id = hits[shown].id; viewer.close(); go({ like: id, picture: null, unlike: "" }); });
$("unlike").addEventListener("click", () => { const id = hits[shown].id; viewer.close(); go({ unlike: id }); });
$("why").addEventListener("click", () => {
  const hit = hits[shown], q = new URLSearchParams({ id: hit.id, text: state.text });
  const image = el("img", { className: "why", alt: `Which parts of the picture each word of “${state.text}” rests on` });
  image.addEventListener("error", () => { $("caption").textContent = "This model cannot say why."; });
  image.src = `/api/explain?${q}`;
  $("caption").textContent = "Reading …";
  image.addEventListener("load", () => { $("caption").textContent = ""; $("stage").replaceChildren(image); });
});
$("describe").addEventListener("click", async () => {
  const number = shown;
  $("caption").textContent = "Reading …";
  try {
    const told = await call("/api/describe", { id: hits[number].id });
    if (shown === number) $("caption").textContent = told.caption;
  } catch (error) { if (shown === number) $("caption").textContent = error.message; }
});
viewer.addEventListener("keydown", (event) => {
  if (event.target.tagName === "VIDEO" || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowRight") look(Math.min(hits.length - 1, shown + 1));
  else if (event.key === "ArrowLeft") look(Math.max(0, shown - 1));
});

// ---- keys on the page ----

addEventListener("keydown", (event) => {
  if (viewer.open || event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target === words;
  if (event.key === "/" && !typing) { event.preventDefault(); words.focus(); words.select(); return; }
  if (event.key === "Escape" && typing) { words.blur(); return; }
  const tiles = [...grid.children];
  const here = tiles.findIndex((one) => one.contains(document.activeElement));
  if (event.key === "ArrowDown" && typing && tiles.length) { event.preventDefault(); tiles[0].firstChild.focus(); return; }
  if (here < 0) return;
  const box = tiles[here].getBoundingClientRect(), middle = box.left + box.width / 2;
  const nearest = (down) => tiles
    .map((one, n) => [n, one.getBoundingClientRect()])
    .filter(([, r]) => down ? r.top > box.bottom - 1 : r.bottom < box.top + 1)
    .sort(([, a], [, b]) => Math.abs(a.top - box.top) - Math.abs(b.top - box.top)
      || Math.abs(a.left + a.width / 2 - middle) - Math.abs(b.left + b.width / 2 - middle))[0];
  let to = -1;
  if (event.key === "ArrowRight") to = here + 1;
  else if (event.key === "ArrowLeft") to = here - 1;
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") { const one = nearest(event.key === "ArrowDown"); to = one ? one[0] : here; }
  else if (event.key === "Home") to = 0;
  else if (event.key === "End") to = tiles.length - 1;
  else return;
  event.preventDefault();
  if (to < 0) words.focus();
  else if (tiles[to]) { tiles[to].firstChild.focus(); tiles[to].scrollIntoView({ block: "nearest" }); }
  if (to + 10 > tiles.length && next) load(false);
});

// ---- pictures to search by ----

function chips() {
  const list = [];
  const chip = (src, alt, clear) => {
    const away = el("button", { type: "button", textContent: "✕" });
    away.setAttribute("aria-label", `Search without ${alt}`);
    away.addEventListener("click", clear);
    list.push(el("span", { className: "chip" }, el("img", { src, alt }), away));
  };
  if (state.picture !== null) chip(pictures.get(state.picture).url, "the picture you gave", () => go({ picture: null }));
  if (state.like) chip(`/thumb/${state.like}?size=128`, "the picture it shall be like", () => go({ like: "" }));
  if (state.unlike) chip(`/thumb/${state.unlike}?size=128`, "the picture it shall not be like", () => go({ unlike: "" }));
  $("chips").replaceChildren(...list);
}
function take(file) {
  if (!file || !file.type.startsWith("image/")) { tell("That is not a picture."); return; }
  const key = pictures.size + 1;
  pictures.set(key, { file, url: URL.createObjectURL(file) });
  go({ picture: key, like: "" });
}
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
let over = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); over += 1; $("drop").hidden = false; });
addEventListener("dragleave", () => { over -= 1; if (over <= 0) { over = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault(); over = 0; $("drop").hidden = true;
  take(event.dataTransfer.files[0]);
});

// ---- the form ----

$("form").addEventListener("submit", (event) => { event.preventDefault(); go({ text: words.value }); });
words.addEventListener("search", () => { if (!words.value && state.text) go({ text: "" }); });
$("kinds").addEventListener("change", (event) => go({ text: words.value, kind: event.target.value }));
$("rerank").addEventListener("change", (event) => go({ text: words.value, rerank: event.target.checked }));
$("ask").addEventListener("click", async () => {
  const question = words.value.trim();
  if (!question) { tell("Type a question first."); words.focus(); return; }
  const box = $("answer"), mine = run;
  box.hidden = false;
  box.textContent = "Reading what is there …";
  try {
    const told = await call("/api/ask", { question });
    if (mine !== run) return;
    box.replaceChildren(el("p", { textContent: told.answer }), ...told.evidence.map((one, n) => {
      const when = one.start === null ? "" : ` ${clock(one.start)}–${clock(one.end)}`;
      return el("div", {}, `[${n + 1}] `, el("a", { href: one.media_url, target: "_blank", rel: "noreferrer", textContent: nameOf(one) + when }));
    }));
  } catch (error) { if (mine === run) box.textContent = error.message; }
});

// ---- what the index holds, and what happens to it ----

async function about() {
  let pause = 15000;
  try {
    const now = await call("/api/status");
    const parts = [[now.images, "pictures"], [now.videos, "videos"], [now.texts, "texts"]].filter(([n]) => n);
    $("holds").textContent = parts.map(([n, name]) => `${n.toLocaleString()} ${name}`).join(" · ") || "The index is empty";
    const hint = now.items ? READY : BARE;
    if (hint !== empty) {
      empty = hint;
      if (!asks()) tell(empty, true);
    }
    const busy = now.watch && now.watch.state === "indexing";
    $("work").hidden = !busy;
    if (busy) { $("work").max = Math.max(1, now.watch.total); $("work").value = now.watch.done; pause = 700; }
    else if (now.watch) pause = 2000;
    $("doing").textContent = !now.watch ? "" : now.watch.error ? `Indexing stopped: ${now.watch.error}`
      : busy ? `Indexing ${now.watch.done} of ${now.watch.total}` : "";
  } catch (error) { $("holds").textContent = "The server does not answer."; }
  setTimeout(about, pause);
}

fromAddress(null);
show();
about();
if (!asks()) words.focus();
