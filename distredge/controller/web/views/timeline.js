// A frame: per node a lane as predicted and below it a lane as measured, on one scale.

import { chart, legend, nothing, REQUESTER, scale, table, text, ticks, tip } from "../chart.js";
import { h, s } from "../dom.js";
import { change, clipped, ms, number } from "../format.js";

const LANE = 19;
const NODE = 2 * LANE + 14;
const AXIS = 20;

/** Where in a lane what a node does is drawn: computing above, the link below it in two thin lines. */
const PLACES = { compute: [0, 10], wait: [4, 2], receive: [11, 3], send: [15, 3] };

function volumeName(view, volume) {
  const count = view.volumes.length;
  return volume < count ? `V${volume}` : volume === count ? "head" : "result";
}

function drawnSpan(view, span, which, x, y) {
  const [down, height] = PLACES[span.kind] ?? PLACES.wait;
  const left = x(span.start_ms);
  const width = Math.max(1, x(span.stop_ms) - left);
  const name = volumeName(view, span.volume);
  const named = span.kind === "compute" && width > name.length * 7 + 2;
  return s("g", { "data-key": `${span.kind}/${span.volume}/${span.start_ms}`, ...tip(
    `${span.node}: ${span.kind}, ${name} (${which})`,
    `${number(span.start_ms)} to ${ms(span.stop_ms)}: ${ms(span.stop_ms - span.start_ms)}`) },
    s("rect", { class: `span ${span.kind}`, x: left.toFixed(1), y: y + down, width: width.toFixed(1), height, rx: 1 }),
    named && text(left + width / 2, y + down + 8.6, name, { class: "in-span", "text-anchor": "middle" }));
}

function lane(view, frame, which, node, x, y) {
  const spans = (frame?.spans ?? []).filter((span) => span.node === node);
  return s("g", { class: which, "data-key": which },
    s("rect", { class: "lane", x: x(0), y: y - 1, width: x.end - x(0), height: LANE }),
    text(x(0) - 4, y + 11, which === "predicted" ? "pred." : "meas.", { class: "small", "text-anchor": "end" }),
    spans.map((span) => drawnSpan(view, span, which, x, y)));
}

function nodesOf(view) {
  const spans = [...(view.predicted?.spans ?? []), ...(view.measured?.spans ?? [])];
  const named = new Set(spans.map((span) => span.node));
  const known = view.nodes.map((node) => node.node);
  return [...known, ...[...named].filter((name) => !known.includes(name))].filter((name) => named.has(name));
}

function axis(x, most, bottom) {
  return ticks(most, x.end - x(0) > 400 ? 6 : 3).filter((value) => value <= most).map((value) =>
    s("g", { class: "axis", "data-key": `tick-${value}` },
      s("line", { x1: x(value), x2: x(value), y1: 0, y2: bottom }),
      text(x(value), bottom + 14, value === 0 ? "0" : ms(value), { "text-anchor": value ? "middle" : "start" })));
}

function ending(frame, which, x, bottom) {
  return frame && s("line", { class: `end ${which}`, x1: x(frame.latency_ms), x2: x(frame.latency_ms), y1: 0, y2: bottom,
    "data-key": `end-${which}` });
}

function figures({ predicted, measured }) {
  const error = predicted && measured ? measured.latency_ms / predicted.latency_ms - 1 : null;
  return h("dl", { class: "numbers" },
    h("div", {}, h("dt", {}, "predicted"), h("dd", {}, ms(predicted?.latency_ms))),
    h("div", {}, h("dt", {}, "measured"), h("dd", {}, ms(measured?.latency_ms))),
    h("div", {}, h("dt", {}, "measured over predicted"),
      h("dd", { class: error > 0.1 ? "warn" : null }, error === null ? "–" : change(error))),
    measured && h("div", {}, h("dt", {}, "frame"), h("dd", {}, `${measured.frame} (epoch ${measured.epoch})`)));
}

export function timeline(view, width) {
  const { predicted, measured } = view;
  const nodes = nodesOf(view);
  if (!nodes.length) return nothing("No frame is known yet, neither predicted nor measured.");
  const most = Math.max(predicted?.latency_ms ?? 0, measured?.latency_ms ?? 0,
    ...[predicted, measured].flatMap((frame) => (frame?.spans ?? []).map((span) => span.stop_ms)));
  const x = Object.assign(scale(0, most, 38, width - 16), { end: width - 16 });
  const bottom = nodes.length * NODE;
  const lanes = nodes.map((node, k) => s("g", { "data-key": node },
    text(0, k * NODE + 10, clipped(node === REQUESTER ? `${view.summary.requester} (requester)` : node, width), { class: "name" }),
    lane(view, predicted, "predicted", node, x, k * NODE + 14),
    lane(view, measured, "measured", node, x, k * NODE + 14 + LANE)));
  return [
    figures(view),
    measured ? null : nothing("No frame has been measured yet: the requester sends one with its telemetry."),
    h("div", { class: "tall" }, chart(width, bottom + AXIS, "A frame's timeline by node, predicted above measured.",
      axis(x, most, bottom), lanes, ending(predicted, "predicted", x, bottom), ending(measured, "measured", x, bottom))),
    legend(["compute", "compute"], ["receive", "receive"], ["send", "send"], ["wait", "wait"],
      ["pale", "pale: predicted"], ["dashed", "dashed: the result is back"]),
    table("timeline-table", ["Node", "What", "Volume", "Which", "From", "To"], () =>
      [["predicted", predicted], ["measured", measured]].flatMap(([which, frame]) => (frame?.spans ?? []).map((span) =>
        [span.node, span.kind, volumeName(view, span.volume), which, ms(span.start_ms), ms(span.stop_ms)]))),
  ];
}
