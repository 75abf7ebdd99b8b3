"use strict";
// The figures of the page of answers, from its JSON.

const data = JSON.parse(document.getElementById("data").textContent);
const FIRST = 4; // lines drawn at first
const PANELS = 12; // charts of a run drawn at first

function curveOf(record, name, color) {
  const [low, inner1, mid, inner2, high] = record.q;
  return {
    name, color, x: data.grids[record.x], y: record.y, grid: data.grids[record.p], mid, low, high,
    inner: inner1 && inner2 ? [inner1, inner2] : null, chance: record.c, unit: record.u ?? "%",
  };
}

// On a linear axis, a short context before a long forecast would be squeezed.
function looksLog(curves) {
  return curves.some((curve) => (curve.x.at(-1) ?? 0) < 0.05 * curve.grid.at(-1));
}

// A button per curve that toggles it; pointing at it highlights the curve.
function legend(host, chart, curves) {
  host.replaceChildren(...curves.map((curve) => {
    const button = element("button", { type: "button", "aria-pressed": String(!curve.off) },
      element("i", { class: `swatch c${curve.color}` }), curve.name);
    button.addEventListener("click", () => {
      curve.off = !curve.off;
      button.setAttribute("aria-pressed", String(!curve.off));
      chart.show(curves);
    });
    const only = (name) => () => curves.length > 1 && !curve.off && chart.show(curves, { only: name });
    button.addEventListener("pointerenter", only(curve.name));
    button.addEventListener("pointerleave", only(null));
    return button;
  }));
}

function drawTasks(figure) {
  const [task, add, log] = ["task", "add-run", "log"].map((id) => document.getElementById(id));
  const host = figure.querySelector(".host");
  const chart = new LineChart(host, { label: "accuracy", height: 340 });
  let chosen = null; // runs; null: the highest expected ends
  let touched = false;
  const draw = () => {
    const here = data.curves.filter((record) => record.t === Number(task.value));
    const end = (record) => record.q[2].at(-1);
    const ranked = [...here].sort((a, b) => (a.l ? end(a) - end(b) : end(b) - end(a)));
    const shown = chosen ? here.filter((record) => chosen.includes(record.r)) : ranked.slice(0, FIRST);
    if (!shown.length) shown.push(...ranked.slice(0, FIRST));
    chosen = shown.map((record) => record.r);
    const curves = shown.map((record, i) => curveOf(record, data.runs[record.r], i));
    if (!touched) log.checked = looksLog(curves);
    chart.show(curves, { log: log.checked });
    legend(figure.querySelector(".legend"), chart, curves);
    const rest = here.filter((record) => !chosen.includes(record.r));
    add.replaceChildren(new Option(`${rest.length} more`, ""), ...rest.map((r) => new Option(data.runs[r.r], r.r)));
    document.getElementById("add-label").hidden = !rest.length;
  };
  task.addEventListener("change", draw);
  log.addEventListener("change", () => { touched = true; draw(); });
  add.addEventListener("change", () => {
    if (add.value === "") return;
    chosen = [...chosen, Number(add.value)].slice(-LINES);
    draw();
  });
  draw();
}

function drawWhen(figure) {
  const chart = new LineChart(figure.querySelector(".host"), { label: "probability", share: true, height: 260 });
  const curves = data.when.map((row, i) => ({
    name: row.name, color: i % LINES, x: [row.seen], y: [0], grid: data.grids[row.p], mid: row.by,
    low: [], high: [], off: i >= LINES,
  }));
  chart.show(curves);
  legend(figure.querySelector(".legend"), chart, curves);
}

// A chart per task, drawn when the section of the run is opened.
function drawRun(part, run) {
  const records = data.curves.filter((record) => record.r === run);
  const panels = part.querySelector(".panels");
  const draw = (wanted) => {
    for (const record of wanted) {
      const host = element("div");
      panels.append(element("div", {}, element("h4", {}, data.tasks[record.t]), host));
      const chart = new LineChart(host, { label: data.tasks[record.t], height: 190, small: true });
      const curve = curveOf(record, "", 0);
      chart.show([curve], { log: looksLog([curve]) });
    }
  };
  draw(records.slice(0, PANELS));
  if (records.length <= PANELS) return;
  const more = element("button", { type: "button" }, `show the other ${records.length - PANELS} tasks`);
  more.addEventListener("click", () => { more.remove(); draw(records.slice(PANELS)); });
  part.append(element("div", { class: "tools" }, more));
}

function openNamed() {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!part?.matches("details.run")) return;
  part.hidden = false;
  part.open = true;
  part.scrollIntoView();
}

function compareWith(choice) {
  for (const [i, item] of [...document.querySelectorAll(".ranking li:not(.scale)")].entries()) {
    const odds = item.querySelector(".odds");
    odds.dataset.best ??= parseFloat(odds.querySelector("i").style.width) / 100;
    const value = choice === "" ? Number(odds.dataset.best) : data.beats[i][Number(choice)];
    odds.querySelector("i").style.width = `${100 * (value ?? 0)}%`;
    odds.querySelector("b").textContent = value === null ? "–" : percent(value);
  }
}

const taskFigure = document.getElementById("task-figure");
if (taskFigure) drawTasks(taskFigure);
const whenFigure = document.getElementById("when-figure");
if (whenFigure) drawWhen(whenFigure);
for (const [run, part] of document.querySelectorAll("details.run").entries()) {
  part.addEventListener("toggle", () => { if (part.open) drawRun(part, run); }, { once: true });
}
document.getElementById("rank-against")?.addEventListener("change", (event) => compareWith(event.target.value));
window.addEventListener("hashchange", openNamed);
openNamed();
