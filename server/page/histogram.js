// @ts-check
/** Dates as bars, of years or of months, on which a stretch is brushed by the mouse or set by two sliders. */

import { el } from "./dom.js";
import { said } from "./said.js";

const MOST_MONTHS = 48;

/** The month or year that comes next. @param {string} unit */
function following(unit) {
  const [year = 0, month = 0] = unit.split("-").map(Number);
  if (!month) return String(year + 1).padStart(4, "0");
  return month === 12 ? `${String(year + 1).padStart(4, "0")}-01` : `${String(year).padStart(4, "0")}-${String(month + 1).padStart(2, "0")}`;
}

export class Histogram {
  #choose;

  /** @param {(filters: import("./line.js").Filter[]) => void} choose none of them for all dates */
  constructor(choose) { this.#choose = choose; }

  /** @param {Record<string, number>} months counts by month @param {boolean} narrowed whether dates are narrowed already */
  show(months, narrowed) {
    const every = Object.keys(months).sort(), box = el("div", { className: "histogram" });
    if (every.length) this.#bars(box, months, every);
    if (narrowed) {
      const all = el("button", { type: "button", className: "more", textContent: said.allDates });
      all.addEventListener("click", () => this.#choose([]));
      box.append(all);
    }
    return box;
  }

  /** @param {HTMLElement} box @param {Record<string, number>} months @param {string[]} every */
  #bars(box, months, every) {
    const first = every[0] ?? "", last = every.at(-1) ?? "";
    const span = 12 * (Number(last.slice(0, 4)) - Number(first.slice(0, 4))) + Number(last.slice(5)) - Number(first.slice(5)) + 1;
    const size = span > MOST_MONTHS ? 4 : 7;
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (let unit = first.slice(0, size); unit <= last.slice(0, size) && counts.size < 2000; unit = following(unit)) counts.set(unit, 0);
    for (const month of every) counts.set(month.slice(0, size), (counts.get(month.slice(0, size)) ?? 0) + (months[month] ?? 0));
    const units = [...counts.keys()], most = Math.max(...counts.values());
    const name = (/** @type {number} */ at) => { const unit = units[at] ?? ""; return size === 4 ? unit : said.month(unit); };
    const bars = units.map((unit) => {
      const bar = el("i"), count = counts.get(unit) ?? 0;
      bar.style.height = count ? `${Math.max(4, (100 * count) / most)}%` : "0";
      bar.title = said.named(size === 4 ? unit : said.month(unit), count);
      return bar;
    });
    const chart = el("div", { className: "bars" }, ...bars), label = el("output", { className: "soft" });
    const sliders = [said.from, said.to].map((text, side) => {
      const slider = el("input", { type: "range", min: "0", max: String(units.length - 1), step: "1", value: String(side ? units.length - 1 : 0) });
      slider.setAttribute("aria-label", text);
      return slider;
    });
    let low = 0, high = units.length - 1;
    const draw = () => {
      bars.forEach((bar, at) => bar.classList.toggle("out", at < low || at > high));
      let sum = 0;
      for (let at = low; at <= high; at += 1) sum += counts.get(units[at] ?? "") ?? 0;
      label.textContent = said.named(low === high ? name(low) : `${name(low)} – ${name(high)}`, sum);
      sliders.forEach((slider, side) => { slider.value = String(side ? high : low); slider.setAttribute("aria-valuetext", name(side ? high : low)); });
    };
    const choose = () => {
      if (low === 0 && high === units.length - 1 && units.length > 1) return;
      this.#choose(low === high ? [{ name: "on", value: units[low] ?? "" }]
        : [{ name: "after", value: units[low] ?? "" }, { name: "before", value: following(units[high] ?? "") }]);
    };
    sliders.forEach((slider, side) => {
      slider.addEventListener("input", () => {
        if (side) high = Math.max(low, Number(slider.value));
        else low = Math.min(high, Number(slider.value));
        draw();
      });
      slider.addEventListener("change", choose);
    });
    let from = -1;
    const at = (/** @type {PointerEvent} */ event) => {
      const { left, width } = chart.getBoundingClientRect();
      return Math.max(0, Math.min(units.length - 1, Math.floor(((event.clientX - left) / width) * units.length)));
    };
    const brush = (/** @type {PointerEvent} */ event) => { [low, high] = [Math.min(from, at(event)), Math.max(from, at(event))]; draw(); };
    chart.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      chart.setPointerCapture(event.pointerId);
      from = at(event);
      brush(event);
    });
    chart.addEventListener("pointermove", (event) => { if (from >= 0) brush(event); });
    chart.addEventListener("pointerup", () => { if (from >= 0) { from = -1; choose(); } });
    chart.addEventListener("pointercancel", () => { from = -1; low = 0; high = units.length - 1; draw(); });
    box.append(chart, el("div", { className: "sliders" }, ...sliders), label);
    draw();
  }
}
