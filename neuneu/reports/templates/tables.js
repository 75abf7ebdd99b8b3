"use strict";
// Tables: sortable by their headings (mouse and keyboard), searchable, shown a page at a time.
// Cells sort by data-value, else by their first text; "text" columns sort as text.

function sortKey(row, column, isText) {
  const cell = row.cells[column];
  const given = cell?.dataset.value;
  const text = (given ?? cell?.firstChild?.textContent ?? "").trim();
  if (text === "" || text === "–" || text === "-") return null;
  const number = isText ? NaN : parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, "en", { numeric: true });
}

function sortTable(table, head) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  const keyed = [...table.tBodies[0].rows].map((row) => [
    sortKey(row, head.cellIndex, head.classList.contains("text")), row,
  ]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // unknown last, both ways
    return ascending ? compareKeys(a, b) : compareKeys(b, a);
  });
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  for (const head of table.tHead.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.addEventListener("click", () => {
      sortTable(table, head);
      table.dispatchEvent(new Event("arrange"));
    });
  }
}

// Shows the items with every word of the search field, at most `page` until "show all" is
// clicked. `tools` holds an input[type=search], an output and a button.
function makeSearchable(tools, itemsOf, page) {
  const [field, count, more] = ["input", "output", "button"].map((x) => tools.querySelector(x));
  const texts = new Map(itemsOf().map((item) => [item, item.textContent.toLowerCase()]));
  let all = false;
  const arrange = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const item of itemsOf()) {
      const fits = words.every((word) => texts.get(item).includes(word));
      found += fits;
      item.hidden = !fits || (!all && found > page);
    }
    const shown = all ? found : Math.min(found, page);
    count.textContent = shown < found ? `${shown} of ${found}` : `${found}`;
    more.hidden = shown === found;
    more.textContent = `show all ${found}`;
  };
  field.addEventListener("input", arrange);
  more.addEventListener("click", () => { all = true; arrange(); });
  tools.hidden = false;
  arrange();
  return arrange;
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
for (const tools of document.querySelectorAll("[data-search]")) {
  const target = document.getElementById(tools.dataset.search);
  const itemsOf = () => [...(target.tBodies?.[0].rows ?? target.children)];
  target.addEventListener("arrange", makeSearchable(tools, itemsOf, Number(tools.dataset.page)));
}
