// What several charts are made of: a scale, round numbers for its axis, texts to hover over or focus, a table beside it.

import { at, h, s } from "./dom.js";

export const REQUESTER = "requester";

/** A linear scale from values to pixels. */
export function scale(from, to, start, stop) {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (stop - start);
}

/** Round numbers from 0 to at least `most`, about `count` steps apart. */
export function ticks(most, count = 4) {
  const rough = (most || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough * 0.999);
  const found = [];
  for (let k = 0; ; k++) {
    found.push(Number((k * step).toPrecision(6)));
    if (found[k] >= most * 0.999) return found;
  }
}

/** A chart: one stop for the keyboard; arrow keys then go through its parts that have a text (see hover.js). */
export function chart(width, height, label, ...children) {
  return s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", tabindex: 0,
    "aria-label": `${label} Arrow keys read its parts.` }, ...children);
}

/** Attributes of a part of a chart that has a text. */
export function tip(...lines) {
  const text = lines.filter(Boolean).join("\n");
  return { "data-tip": text, "aria-label": text.replaceAll("\n", "; "), role: "img", tabindex: -1 };
}

/** The same, for the pointer only: there are too many of them for the keyboard, and the table has them all. */
export function hoverTip(...lines) {
  return { "data-tip": lines.filter(Boolean).join("\n"), "aria-hidden": "true" };
}

export function text(x, y, content, attributes = {}) {
  return s("text", { x, y, ...attributes }, content);
}

/** A chart's colours and signs in words. */
export function legend(...entries) {
  return h("ul", { class: "legend" },
    entries.filter(Boolean).map(([kind, words]) => h("li", {}, h("span", { class: `swatch ${kind}` }), words)));
}

/** The figures of a chart; they are made when somebody opens them. */
export function table(id, head, rows) {
  const open = at(id)?.open;
  return h("details", { id, class: "figures-of" }, h("summary", {}, "Table"),
    open && h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, plainTable(head, rows())));
}

/** A table whose first column names the row. */
export function plainTable(head, rows) {
  const cell = (content, k) => (k ? h("td", {}, content) : h("th", { scope: "row" }, content));
  return h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))));
}

/** What stands where there is nothing to draw. */
export function nothing(...words) {
  return h("p", { class: "nothing" }, ...words);
}

/** The class that colours a provider: the same in all charts. */
export function colour(view, name) {
  const place = view.nodes.filter((node) => node.node !== REQUESTER).findIndex((node) => node.node === name);
  return place < 0 ? "px" : `p${place % 16}`;
}
