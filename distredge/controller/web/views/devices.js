// The providers that have registered.

import { nothing } from "../chart.js";
import { h } from "../dom.js";
import { memory, span } from "../format.js";

const HEAD = ["Device", "Health", "Heard", "Session", "Memory free", "Memory", "Profile", "Address", "DistrEdge", "Platform"];

function row(device, now_s) {
  const { registration } = device;
  return h("tr", { "data-key": device.name },
    h("th", { scope: "row" }, device.name),
    h("td", {}, h("span", { class: `dot-of ${device.health}` }), device.health),
    h("td", {}, `${span(now_s - device.heard_s)} ago`),
    h("td", {}, device.serving ? "serving" : "idle"),
    h("td", { class: "figure" }, memory(device.memory_free_mb)),
    h("td", { class: "figure" }, memory(registration.memory_mb)),
    h("td", {}, registration.profile ?? "–"),
    h("td", {}, registration.address ?? "–"),
    h("td", {}, `${registration.version}, protocol ${registration.protocol}`),
    h("td", {}, registration.platform || "–"));
}

export function devices(overview) {
  if (!overview.devices.length) {
    return nothing("No device has registered. Start one: ", h("code", {}, "distredge provider --controller URL"));
  }
  return h("table", { class: "devices" },
    h("thead", {}, h("tr", {}, HEAD.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, overview.devices.map((device) => row(device, overview.now_s))));
}
