// What each planner's plan would take now, by the simulator corrected with what was measured.

import { chart, nothing, scale, table, text, tip } from "../chart.js";
import { h, s } from "../dom.js";
import { change, clipped, clock, ms, span } from "../format.js";

const ROW = 26;
const NAMES = 104;

function bar(item, ours, best, x, k) {
  const y = k * ROW;
  const mine = item.method === ours;
  const over = item.latency_ms / best - 1;
  return s("g", { class: mine ? "method ours" : "method", "data-key": item.method, ...tip(
    `${item.method}: ${ms(item.latency_ms)}${mine ? ", in force" : ""}`, over > 0 ? `${change(over)} over the best` : "the best") },
    text(NAMES - 8, y + 16, clipped(item.method, NAMES - 8), { class: mine ? "name" : null, "text-anchor": "end" }),
    s("rect", { x: NAMES, y: y + 4, width: Math.max(1, x(item.latency_ms) - NAMES).toFixed(1), height: ROW - 8, rx: 2 }),
    text(x(item.latency_ms) + 6, y + 17, ms(item.latency_ms) + (mine ? "  in force" : ""), { class: mine ? "strong" : null }));
}

export function methods(view, width, now_s) {
  if (!view.methods.length) return nothing("Planners have not been compared yet: the controller does so when it plans anew.");
  const items = view.methods.toSorted((a, b) => a.latency_ms - b.latency_ms);
  const best = items[0].latency_ms;
  const x = scale(0, items.at(-1).latency_ms, NAMES, width - 118);
  const when = view.methods_at_s;
  return [
    h("p", { class: "note" }, when === null ? "Latency, by the corrected simulator."
      : `Latency, by the corrected simulator at ${clock(when)}, ${span(now_s - when)} ago.`),
    chart(width, items.length * ROW, "Latency of the planners' plans.",
      items.map((item, k) => bar(item, view.summary.method, best, x, k))),
    table("methods-table", ["Planner", "Latency", "Over the best"], () =>
      items.map((item) => [item.method, ms(item.latency_ms), change(item.latency_ms / best - 1)])),
  ];
}
