// What happened and why, newest first.

import { at, h, update } from "../dom.js";
import { clock, moment } from "../format.js";
import { markOf, words } from "../kinds.js";

const ANNOUNCED = 3;

let newest = { stream: null, id: null };

/** Roles in words, as narrow screens show a row as a block, and browsers then forget that it is one. */
const cell = { role: "cell" };

function row(event) {
  const mark = markOf(event);
  return h("tr", { "data-key": String(event.id), role: "row" },
    h("td", cell, h("time", { datetime: new Date(event.at_s * 1000).toISOString(), title: moment(event.at_s) }, clock(event.at_s))),
    h("td", cell, h("span", { class: `kind ${mark?.mark ?? ""}` }, words(event.kind))),
    h("td", cell, event.node ?? "–"),
    h("td", { class: "reason", ...cell }, event.reason));
}

function kinds(events, chosen) {
  const known = new Set([...events.map((event) => event.kind), ...(chosen ? [chosen] : [])]);
  return ["", ...[...known].sort()].map((kind) => h("option", { value: kind, "data-key": `kind-${kind}` }, kind ? words(kind) : "all"));
}

function wanted(event, kind, text) {
  const all = `${event.kind} ${words(event.kind)} ${event.node ?? ""} ${event.reason}`.toLowerCase();
  return (!kind || event.kind === kind) && all.includes(text);
}

/** Say what is new since the last time to those who hear the page, but not the whole past. */
function announce(stream, events) {
  const known = newest.stream === stream ? newest.id : null;
  const latest = events.length ? events[0].id : -1;
  if (known !== null && latest > known) {
    const fresh = events.filter((event) => event.id > known).slice(0, ANNOUNCED).reverse();
    at("announce").append(...fresh.map((event) => h("p", {}, `${words(event.kind)} ${event.node ?? ""}: ${event.reason}`)));
    while (at("announce").childElementCount > ANNOUNCED) at("announce").firstChild.remove();
  }
  newest = { stream, id: latest };
}

/** Show them in their place; who has scrolled down keeps the line that they read. */
export function showEvents(view) {
  const events = view.events.toSorted((a, b) => b.id - a.id);
  const [kindBox, textBox, box] = [at("event-kind"), at("event-text"), at("events")];
  update(kindBox, kinds(events, kindBox.value));
  const shown = events.filter((event) => wanted(event, kindBox.value, textBox.value.trim().toLowerCase()));
  const [before, top] = [box.scrollHeight, box.scrollTop];
  update(box, h("table", { role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Time", "Kind", "Node", "Reason"].map((name) => h("th", { scope: "col", role: "columnheader" }, name)))),
    h("tbody", { role: "rowgroup" }, shown.length ? shown.map(row)
      : h("tr", { role: "row" }, h("td", { colspan: 4, class: "nothing", ...cell }, events.length ? "No event fits the filter." : "Nothing has happened yet.")))));
  if (top > 0) box.scrollTop = top + box.scrollHeight - before;
  announce(view.summary.stream, events);
}
