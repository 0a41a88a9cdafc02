// The stream in a few numbers, the header's facts, and the list to choose from.

import { h } from "../dom.js";
import { change, clock, count, ips, ms, span } from "../format.js";

function fact(name, ...values) {
  return h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, ...values));
}

export function facts(overview) {
  const up = overview.devices.filter((device) => device.health === "up").length;
  const live = overview.streams.filter((stream) => stream.live).length;
  return [
    fact("version", overview.version),
    fact("role", overview.role),
    fact("devices", `${up} up of ${overview.devices.length}`),
    fact("streams", `${live} live of ${overview.streams.length}`),
  ];
}

export function choices(overview, chosen) {
  return overview.streams.map((stream) => h("option",
    { value: stream.stream, "data-key": stream.stream, selected: stream.stream === chosen },
    `${stream.requester}: ${stream.model} on ${stream.scenario}${stream.live ? "" : " (ended)"}`));
}

function tile(name, value, note, kind = null) {
  return h("div", { class: "tile", "data-key": name },
    h("dt", {}, name), h("dd", { class: kind }, value), h("dd", { class: "under" }, note || "\u00a0"));
}

function againstExpected({ latency, expected_ms }) {
  if (!latency || !expected_ms) return ["", null];
  const by = latency.p50 / expected_ms - 1;
  return [`${change(by)} of expected`, by > 0.1 ? "warn" : null];
}

export function summary({ summary: it }, now_s) {
  const { latency, orders } = it;
  const [note, kind] = againstExpected(it);
  const order = orders.pinned ? "pinned" : orders.plan_sha256 ? "as ordered" : "decides itself";
  return h("dl", { class: "tiles" },
    tile("latency p50", ms(latency?.p50), note, kind),
    tile("p90", ms(latency?.p90), latency && `p99 ${ms(latency.p99)}`),
    tile("rate", ips(latency?.ips), latency && count(latency.frames, "frame")),
    tile("expected", ms(it.expected_ms), "by the simulator"),
    tile("plan", it.method, `epoch ${it.epoch}, ${it.plan_sha256.slice(0, 8)}`),
    tile("orders", order, orders.version ? `version ${orders.version}` : "none so far", orders.pinned ? "pinned" : null),
    tile("heard", it.live ? `${span(now_s - it.heard_s)} ago` : "ended", `since ${clock(it.opened_s)}`, it.live ? null : "warn"));
}
