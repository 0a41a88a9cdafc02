// The star: the requester and the providers around their access point, with the links' rates as measured.

import { chart, colour, REQUESTER, table, text, tip, legend } from "../chart.js";
import { h, s } from "../dom.js";
import { change, clipped, factor, mbps, ms, share } from "../format.js";

const ROW = 50;
const NOTABLE = 0.1;

/** By how much a link's rate differs from the scenario's, as a share; 0 where nothing is known. */
function changeOf(node) {
  return node.mbps && node.scenario_mbps ? node.mbps / node.scenario_mbps - 1 : 0;
}

function linkClass(node) {
  if (!node.present) return "link absent";
  const by = changeOf(node);
  return by <= -0.5 ? "link much-less" : by < -NOTABLE ? "link less" : by > NOTABLE ? "link more" : "link";
}

function rate(node) {
  return node.mbps ?? node.scenario_mbps;
}

function thickness(node, most) {
  const value = rate(node);
  return (value === null ? 7 : 1.5 + 5.5 * Math.sqrt(value / most)).toFixed(2);
}

function healthOf(node) {
  return node.present ? node.health ?? "no word" : "absent";
}

function says(node) {
  return [
    node.node + (node.profile ? ` (${node.profile})` : ""),
    `health: ${healthOf(node)}`,
    `link: ${mbps(rate(node))}, scenario ${mbps(node.scenario_mbps)}` +
      (Math.abs(changeOf(node)) > NOTABLE ? ` (${change(changeOf(node))})` : ""),
    node.node !== REQUESTER && `slowdown ${factor(node.slowdown)} of its profile`,
    node.node !== REQUESTER && `${share(node.rows_share)} of the work, ${ms(node.predicted_compute_ms)} of computing`,
  ];
}

function rateLabel(node, x, y) {
  const by = changeOf(node);
  const changed = Math.abs(by) > NOTABLE;
  return [
    text(x, y - 7, mbps(rate(node)), { class: "rate", "text-anchor": "end" }),
    changed && text(x, y + 15, `${by < 0 ? "▼" : "▲"} ${change(by)}`,
      { class: by < 0 ? "rate down" : "rate up", "text-anchor": "end" }),
  ];
}

function card(view, node, x, y, width) {
  const bar = Math.max(0, Math.min(1, node.rows_share)) * (width - 16);
  const slow = node.slowdown > 1.1 ? "slow" : "";
  return [
    s("rect", { class: "card", x, y: y - 21, width, height: 42, rx: 4 }),
    s("circle", { class: `health ${healthOf(node).replace(" ", "-")}`, cx: x + 12, cy: y - 8, r: 4.5 }),
    text(x + 22, y - 4, clipped(node.node, width - 70, 7.2), { class: "name" }),
    text(x + width - 8, y - 4, share(node.rows_share), { class: "share", "text-anchor": "end" }),
    text(x + 8, y + 10, healthOf(node), { class: "small" }),
    text(x + width - 8, y + 10, `${factor(node.slowdown)} · ${ms(node.predicted_compute_ms)}`,
      { class: `small ${slow}`, "text-anchor": "end" }),
    s("rect", { class: "track", x: x + 8, y: y + 14, width: width - 16, height: 4 }),
    s("rect", { class: `fill ${colour(view, node.node)}`, x: x + 8, y: y + 14, width: bar.toFixed(1), height: 4 }),
  ];
}

function provider(view, node, place, most) {
  const { hub, cardX, cardWidth, y } = place;
  const bend = hub.x + 14 + (cardX - hub.x - 100) * 0.5;
  const flat = Math.max(hub.x + 24, cardX - 78);
  const path = `M${hub.x} ${hub.y} C${bend} ${hub.y} ${bend} ${y} ${flat} ${y} L${cardX} ${y}`;
  return s("g", { class: node.present ? "node" : "node absent", "data-key": node.node, ...tip(...says(node)) },
    s("path", { class: linkClass(node), d: path, "stroke-width": thickness(node, most) }),
    rateLabel(node, cardX - 6, y),
    card(view, node, cardX, y, cardWidth));
}

function requester(node, name, hub, narrow, most) {
  const width = 104;
  const [x, y] = narrow ? [0, 4] : [0, hub.y - 18];
  const line = narrow ? `M${hub.x} 40 L${hub.x} ${hub.y}` : `M${width} ${hub.y} L${hub.x} ${hub.y}`;
  const label = narrow
    ? text(width + 10, 26, mbps(rate(node)), { class: "rate" })
    : text(width / 2, hub.y + 34, mbps(rate(node)), { class: "rate", "text-anchor": "middle" });
  return s("g", { class: "node", "data-key": node.node, ...tip(...says(node)) },
    s("path", { class: linkClass(node), d: line, "stroke-width": thickness(node, most) }),
    s("rect", { class: "card", x, y, width, height: 36, rx: 4 }),
    text(x + width / 2, y + 15, clipped(name, width - 8, 7.2), { class: "name", "text-anchor": "middle" }),
    text(x + width / 2, y + 29, "requester", { class: "small", "text-anchor": "middle" }),
    label);
}

export function topology(view, width) {
  const providers = view.nodes.filter((node) => node.node !== REQUESTER);
  const own = view.nodes.find((node) => node.node === REQUESTER) ??
    { node: REQUESTER, profile: null, present: true, health: null, scenario_mbps: null, mbps: null };
  const narrow = width < 460;
  const top = narrow ? 48 : 4;
  const height = top + Math.max(providers.length, 2) * ROW + 4;
  const hub = { x: narrow ? 28 : 164, y: top + (height - top) / 2 };
  const cardWidth = narrow ? 176 : Math.min(220, width * 0.4);
  const most = Math.max(1, ...view.nodes.map((node) => rate(node) ?? 0));
  const drawn = providers.map((node, k) =>
    provider(view, node, { hub, cardX: width - cardWidth - 1, cardWidth, y: top + (k + 0.5) * ROW }, most));
  return [
    chart(width, height, `A requester and ${providers.length} providers around an access point.`,
      requester({ ...own, health: own.health ?? "up" }, view.summary.requester, hub, narrow, most), drawn,
      s("g", { class: "hub" }, s("circle", { cx: hub.x, cy: hub.y, r: 14 }),
        text(hub.x, hub.y + 4, "AP", { "text-anchor": "middle" }))),
    legend(["line-less", "slower than the scenario says"], ["line-more", "faster"],
      ["line-width", "the wider, the more Mbit/s"]),
    table("topology-table", ["Node", "Health", "Link", "Scenario", "Slowdown", "Work", "Compute"], () =>
      view.nodes.map((node) => [node.node, healthOf(node), mbps(rate(node)), mbps(node.scenario_mbps),
        factor(node.slowdown), share(node.rows_share), ms(node.predicted_compute_ms)])),
    providers.length ? null : h("p", { class: "nothing" }, "The stream has no provider."),
  ];
}
