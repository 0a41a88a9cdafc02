// Latency (p50, and the band up to p90) and images per second over time, with the latency expected and what happened.

import { chart, hoverTip, legend, nothing, scale, table, text, ticks, tip } from "../chart.js";
import { s } from "../dom.js";
import { clock, ips, ms, number } from "../format.js";
import { LEGEND, markOf, words } from "../kinds.js";

const LEFT = 54, RIGHT = 10, FLAGS = 20, LATENCY = 150, GAP = 16, RATE = 60, AXIS = 20;
const TOP2 = FLAGS + LATENCY + GAP;
const HEIGHT = TOP2 + RATE + AXIS;

const LETTER_WIDTH = 17;

/** At most so many points, each the mean of neighbours. */
function thinned(points, most) {
  const each = Math.ceil(points.length / most);
  if (each <= 1) return points;
  const found = [];
  for (let k = 0; k < points.length; k += each) found.push(mean(points.slice(k, k + each)));
  return found;
}

function mean(points) {
  const of = (name) => {
    const values = points.map((point) => point[name]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  };
  return { ...points.at(-1), p50: of("p50"), p90: of("p90"), ips: of("ips"), expected_ms: of("expected_ms") };
}

/** The runs of points that have these values. */
function runs(points, ...names) {
  const found = [[]];
  for (const point of points) {
    if (names.every((name) => point[name] !== null)) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

const joined = (pairs) => "M" + pairs.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L");

function line(points, name, x, y) {
  return runs(points, name).map((run) => joined(run.map((p) => [x(p.at_s), y(p[name])]))).join("");
}

/** A line that steps, as what is expected does. */
function steps(points, x, y) {
  return runs(points, "expected_ms").map((run) => joined(run.flatMap((p, k) => {
    const before = run[k - 1] ?? p;
    return [[x(p.at_s), y(before.expected_ms)], [x(p.at_s), y(p.expected_ms)]];
  }))).join("");
}

function band(points, x, y) {
  return runs(points, "p50", "p90").map((run) =>
    joined([...run.map((p) => [x(p.at_s), y(p.p90)]), ...run.toReversed().map((p) => [x(p.at_s), y(p.p50)])]) + "Z").join("");
}

function yAxis(values, y, width, name) {
  return values.map((value) => s("g", { class: "axis", "data-key": `${name}-${value}` },
    s("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
    text(LEFT - 5, y(value) + 4, number(value, value % 1 ? 1 : 0), { "text-anchor": "end" })));
}

function xAxis(from, to, x, width) {
  const count = Math.max(2, Math.floor((width - LEFT) / 130));
  return Array.from({ length: count + 1 }, (_, k) => {
    const when = from + ((to - from) * k) / count;
    return text(x(when), HEIGHT - 4, clock(when), { class: "tick", "data-key": `x-${k}`,
      "text-anchor": k === 0 ? "start" : k === count ? "end" : "middle" });
  });
}

/** Events with a mark, those that would cover each other together, oldest first. */
function flags(events, from, to, x) {
  const found = [];
  const marked = events.filter((e) => markOf(e) && e.at_s >= from && e.at_s <= to).sort((a, b) => a.at_s - b.at_s);
  for (const event of marked) {
    const last = found.at(-1);
    if (last && x(event.at_s) - x(last[0].at_s) < LETTER_WIDTH) last.push(event);
    else found.push([event]);
  }
  return found;
}

function flag(events, x) {
  const { mark } = markOf(events.at(-1));
  const letters = new Set(events.map((event) => markOf(event).letter));
  const label = letters.size === 1 ? [...letters][0] : "+";
  const at = x(events[0].at_s);
  const says = events.map((e) => `${clock(e.at_s)} ${words(e.kind)}${e.node ? ` (${e.node})` : ""}: ${e.reason}`);
  return s("g", { class: `flag ${letters.size === 1 ? mark : "several"}`, "data-key": `flag-${events[0].id}`, ...tip(...says) },
    s("line", { x1: at, x2: at, y1: FLAGS - 4, y2: TOP2 + RATE }),
    s("circle", { cx: at, cy: 9, r: 8 }),
    text(at, 13, label, { "text-anchor": "middle" }));
}

function slices(points, x, width) {
  const places = points.map((point) => x(point.at_s));
  return points.map((point, k) => {
    const left = k ? (places[k - 1] + places[k]) / 2 : LEFT;
    const right = k + 1 < places.length ? (places[k] + places[k + 1]) / 2 : width - RIGHT;
    return s("rect", { class: "slice", x: left.toFixed(1), y: FLAGS, width: Math.max(0, right - left).toFixed(1),
      height: HEIGHT - FLAGS - AXIS, ...hoverTip(`${clock(point.at_s)}, epoch ${point.epoch}`,
        `p50 ${ms(point.p50)}, p90 ${ms(point.p90)}`, `expected ${ms(point.expected_ms)}`, ips(point.ips)) });
  });
}

/** The summary in words, for those who hear the page. */
function spoken(points) {
  const last = points.at(-1);
  return `Latency and images per second from ${clock(points[0].at_s)} to ${clock(last.at_s)}; last p50 ${ms(last.p50)}, ` +
    `p90 ${ms(last.p90)}, ${ips(last.ips)}.`;
}

export function history(view, width) {
  if (view.history.length < 2) return nothing("No frame has been finished yet.");
  const points = thinned(view.history, Math.max(50, Math.floor(width / 3)));
  const [from, to] = [points[0].at_s, points.at(-1).at_s];
  const x = scale(from, to, LEFT, width - RIGHT);
  const latencyTicks = ticks(Math.max(...points.flatMap((p) => [p.p90 ?? 0, p.p50 ?? 0, p.expected_ms ?? 0])));
  const rateTicks = ticks(Math.max(...points.map((p) => p.ips)), 2);
  const y = scale(0, latencyTicks.at(-1), FLAGS + LATENCY, FLAGS);
  const y2 = scale(0, rateTicks.at(-1), TOP2 + RATE, TOP2);
  return [
    chart(width, HEIGHT, spoken(points),
      yAxis(latencyTicks, y, width, "ms"), yAxis(rateTicks, y2, width, "ips"), xAxis(from, to, x, width),
      text(0, FLAGS + 4, "ms", { class: "unit" }), text(0, TOP2 + 4, "IPS", { class: "unit" }),
      s("path", { class: "band", d: band(points, x, y) }),
      s("path", { class: "expected", d: steps(points, x, y) }),
      s("path", { class: "p50", d: line(points, "p50", x, y) }),
      s("path", { class: "ips", d: line(points, "ips", x, y2) }),
      s("g", { "data-key": "slices" }, slices(points, x, width)),
      flags(view.events, from, to, x).map((events) => flag(events, x))),
    legend(["p50-line", "p50"], ["band-swatch", "up to p90"], ["expected-line", "expected"],
      ...LEGEND.map(({ mark, letter, words: name }) => [`flag-swatch ${mark} letter-${letter}`, name])),
    table("history-table", ["Time", "p50", "p90", "Expected", "Images/s", "Epoch"], () =>
      points.toReversed().map((p) => [clock(p.at_s), ms(p.p50), ms(p.p90), ms(p.expected_ms), number(p.ips), p.epoch])),
  ];
}
