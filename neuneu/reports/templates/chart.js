"use strict";
// Line charts with intervals in SVG: a read-out for mouse, touch and arrow keys, and lines that can be
// toggled. Redrawn at the available width, so that text keeps its size on a phone.

const SVG = "http://www.w3.org/2000/svg";
const LINES = 6; // the colours of the style

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function logTicks(low, high, count) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  const decades = found.filter((value) => Number.isInteger(Math.round(1e6 * Math.log10(value)) / 1e6));
  const chosen = found.length > count && decades.length > 1 ? decades : found;
  const step = Math.ceil(chosen.length / count);
  return chosen.filter((_, index) => index % step === 0);
}

// A curve: {name, color, x, y (observed), grid, mid, low, high, inner (of [low, high], optional),
// chance (optional), off}. `share` says that values are probabilities and not accuracies.
class LineChart {
  constructor(host, { label, share = false, height = 300, small = false }) {
    Object.assign(this, { host, label, share, height, small, curves: [], log: false, at: null });
    this.readout = element("div", { class: "readout", "aria-live": "polite" });
    this.plot = element("div", { class: "chart", tabindex: "0", role: "group" });
    host.replaceChildren(this.plot, this.readout);
    this.plot.addEventListener("pointermove", (event) => this.pointAt(event));
    this.plot.addEventListener("pointerdown", (event) => this.pointAt(event));
    this.plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.moveTo(null);
    });
    this.plot.addEventListener("keydown", (event) => this.step(event));
    let width = 0;
    new ResizeObserver(() => {
      if (this.plot.clientWidth !== width) this.draw();
      width = this.plot.clientWidth;
    }).observe(this.plot);
  }

  show(curves, { log = this.log, only = null } = {}) {
    Object.assign(this, { curves, log, only, at: null });
    this.draw();
  }

  // x of everything visible, increasing: where the read-out can stand.
  stops() {
    const all = this.visible().flatMap((curve) => [...curve.x, ...curve.grid]);
    return [...new Set(all)].filter((x) => !this.log || x > 0).sort((a, b) => a - b);
  }

  visible() {
    return this.curves.filter((curve) => !curve.off);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const [left, right, top, bottom] = [46, 12, 10, 36];
    const svg = drawn("svg", { width, height: this.height, viewBox: `0 0 ${width} ${this.height}` });
    svg.classList.toggle("crowded", this.visible().length > 2); // fewer overlapping intervals
    svg.setAttribute("aria-hidden", "true");
    const stops = this.stops();
    this.plot.setAttribute(
      "aria-label",
      `${this.label}: ${this.visible().map((curve) => curve.name).join(", ")}. Use the arrow keys to read values.`,
    );
    this.plot.replaceChildren(svg);
    if (!stops.length) {
      this.readout.replaceChildren("all lines are off");
      return;
    }
    const [first, last] = [stops[0], stops.at(-1)];
    const map = this.log ? Math.log : (x) => x;
    const [from, to] = [map(this.log ? first : Math.min(0, first)), map(last)];
    this.X = (x) => left + ((map(x) - from) / (to - from || 1)) * (width - left - right);
    const [low, high] = this.range();
    this.Y = (y) => top + ((high - y) / (high - low)) * (this.height - top - bottom);
    for (const y of ticks(low, high, this.small ? 4 : 5)) {
      svg.append(
        drawn("line", { class: "grid", x1: left, x2: width - right, y1: this.Y(y), y2: this.Y(y) }),
        drawn("text", { x: left - 6, y: this.Y(y) + 4, "text-anchor": "end" }, this.tick(y)),
      );
    }
    const room = Math.max(2, Math.floor((width - left - right) / 70));
    const marks = this.log ? logTicks(first, last, room) : ticks(0, last, room);
    for (const x of marks) {
      const at = Math.min(this.X(x), width - right - 10);
      svg.append(drawn("text", { x: at, y: this.height - 18, "text-anchor": "middle" }, formatCount(x)));
    }
    svg.append(drawn("text", { x: width - right, y: this.height - 3, "text-anchor": "end" }, "training tokens"));
    for (const curve of this.visible()) svg.append(this.line(curve));
    this.cursor = drawn("g", {});
    svg.append(this.cursor);
    this.moveTo(this.at);
  }

  // The unit of the values; curves of one chart share it.
  unit() {
    return this.share ? "%" : (this.curves[0]?.unit ?? "%");
  }

  tick(y) {
    return this.unit() === "%" ? `${+(100 * y).toFixed(1)} %` : `${+y.toPrecision(3)}`;
  }

  range() {
    if (this.share) return [0, 1];
    const values = this.visible().flatMap((curve) => [...curve.y, ...curve.low, ...curve.high]);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    const near = (chance) => chance !== null && chance > low - (high - low) && chance < high;
    low = Math.min(low, ...this.visible().map((curve) => curve.chance ?? null).filter(near));
    const missing = Math.max(0, 0.04 - (high - low));
    const pad = 0.04 * (high - low) + missing / 2;
    return this.unit() === "%" ? [Math.max(0, low - pad), Math.min(1, high + pad)] : [low - pad, high + pad];
  }

  line(curve) {
    const group = drawn("g", { class: `curve c${curve.color}` });
    if (this.only !== null) group.classList.add(this.only === curve.name ? "chosen" : "faded");
    const path = (x, y) => x.map((at, i) => `${i ? "L" : "M"}${this.X(at).toFixed(1)} ${this.Y(y[i]).toFixed(1)}`).join("");
    const usable = curve.x.map((at, i) => [at, curve.y[i]]).filter(([at]) => !this.log || at > 0);
    const [seenX, seenY] = [usable.map(([at]) => at), usable.map(([, y]) => y)];
    // Forecasts start where observation ends, so that the eye can follow one line.
    const [startX, startY] = [seenX.slice(-1), seenY.slice(-1)];
    const ahead = [...startX, ...curve.grid];
    const areas = [["outer", curve.low, curve.high], ["inner", ...(curve.inner ?? [[], []])]];
    for (const [name, low, high] of areas) {
      if (!low.length) continue;
      const outline = path(
        [...ahead, ...[...ahead].reverse()],
        [...startY, ...low, ...[...startY, ...high].reverse()],
      );
      group.append(drawn("path", { class: name, d: `${outline}Z` }));
    }
    if (curve.chance !== null && curve.chance !== undefined && this.Y(curve.chance) < this.height - 30) {
      const [x1, x2] = [seenX[0] ?? ahead[0], ahead.at(-1)].map((x) => this.X(x));
      group.append(drawn("line", { class: "chance", x1, x2, y1: this.Y(curve.chance), y2: this.Y(curve.chance) }));
    }
    if (seenX.length) group.append(drawn("path", { class: "seen", d: path(seenX, seenY) }));
    if (seenX.length && seenX.length <= 40) {
      for (const [x, y] of usable) group.append(drawn("circle", { cx: this.X(x), cy: this.Y(y), r: 2.2 }));
    }
    group.append(drawn("path", { class: "ahead", d: path(ahead, [...startY, ...curve.mid]) }));
    return group;
  }

  pointAt(event) {
    const stops = this.stops();
    if (!stops.length) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const away = (stop) => Math.abs(this.X(stop) - x);
    this.moveTo(stops.reduce((best, stop) => (away(stop) < away(best) ? stop : best)));
  }

  step(event) {
    const stops = this.stops();
    const now = this.at === null ? stops.length - 1 : stops.indexOf(this.at);
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: stops.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.moveTo(stops[Math.min(Math.max(next, 0), stops.length - 1)]);
  }

  // The read-out at x; null stands for the end of each curve.
  moveTo(x) {
    this.at = x;
    const stops = this.stops();
    if (!stops.length) return;
    const ends = new Set(this.visible().map((curve) => curve.grid.at(-1)));
    const list = element("ul");
    this.cursor.replaceChildren();
    if (x !== null) {
      const at = this.X(x);
      this.cursor.append(drawn("line", { class: "cursor", x1: at, x2: at, y1: 10, y2: this.height - 36 }));
    }
    for (const curve of this.visible()) {
      const found = x === null ? this.endOf(curve) : this.valueAt(curve, x);
      const at = x === null && ends.size > 1 ? ` at ${tokens(found.x)}` : "";
      const text = found === null ? "–" : this.words(found) + at;
      list.append(element("li", {}, element("i", { class: `swatch c${curve.color}` }), `${curve.name} `, element("b", {}, text)));
      if (found !== null && x !== null) {
        this.cursor.append(drawn("circle", { class: `mark c${curve.color}`, cx: this.X(found.x), cy: this.Y(found.mid), r: 4 }));
      }
    }
    const where = x ?? (ends.size === 1 ? [...ends][0] : null);
    const title = where === null ? "at the end of each" : `at ${tokens(where)} tokens${x === null ? ", the end" : ""}`;
    this.readout.replaceChildren(element("p", {}, title), list);
  }

  endOf(curve) {
    return { x: curve.grid.at(-1), mid: curve.mid.at(-1), low: curve.low.at(-1), high: curve.high.at(-1) };
  }

  // The curve's own point next to x, unless it lies elsewhere on the screen.
  valueAt(curve, x) {
    const seen = curve.x.map((at, i) => ({ x: at, mid: curve.y[i], seen: true }));
    const ahead = curve.grid.map((at, i) => ({ x: at, mid: curve.mid[i], low: curve.low[i], high: curve.high[i] }));
    const all = [...seen, ...ahead].filter((point) => !this.log || point.x > 0);
    if (!all.length) return null;
    const away = (point) => Math.abs(this.X(point.x) - this.X(x));
    const best = all.reduce((a, b) => (away(b) < away(a) ? b : a));
    return away(best) <= 12 ? best : null;
  }

  words(found) {
    if (this.share) return percent(found.mid);
    const unit = this.unit();
    if (found.seen) return `${score(found.mid, 0, unit)} observed`;
    const width = found.high - found.low;
    return `${score(found.mid, width, unit)} (${score(found.low, width, unit)} to ${score(found.high, width, unit)})`;
  }
}
