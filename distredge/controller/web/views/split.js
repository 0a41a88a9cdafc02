// The plan in force: each layer-volume as a bar of rows, divided among the providers.

import { chart, colour, legend, nothing, scale, table, text, tip } from "../chart.js";
import { h, s } from "../dom.js";
import { clipped, layers } from "../format.js";

const BAR = 24;

function says(volume, part, v) {
  const [from, to] = part.rows;
  return [
    `${part.provider}: rows ${from} to ${to - 1} of ${volume.height} (${to - from})`,
    `volume ${v}: ${layers(volume.layers)}`,
    part.halo_rows > 0 && `halo: ${part.halo_rows} rows of inner layers that another provider computes as well`,
  ];
}

/** The hatched strip begins where the part meets another; inner layers have more rows, so the part's end may cut it off. */
function haloStrip(part, volume, x, y) {
  if (!part.halo_rows) return null;
  const [from, to] = part.rows.map(x);
  const width = Math.min(Math.max(5, x(part.halo_rows) - x(0)), to - from - 1);
  return s("rect", { class: "halo", x: (from + 1).toFixed(1), y: y + BAR - 7,
    width: Math.max(0, width - 1).toFixed(1), height: 7 });
}

function drawnPart(view, volume, part, v, x, y) {
  const [from, to] = part.rows.map(x);
  const rows = part.rows[1] - part.rows[0];
  const room = to - from - 10;
  const name = clipped(part.provider, room - 24);
  const words = room > 60 && name ? `${name} ${rows}` : room > 12 ? String(rows) : "";
  return s("g", { "data-key": `${v}/${part.provider}`, ...tip(...says(volume, part, v)) },
    s("rect", { class: `part ${colour(view, part.provider)}`, x: (from + 0.75).toFixed(1), y,
      width: Math.max(1, to - from - 1.5).toFixed(1), height: BAR, rx: 2 }),
    haloStrip(part, volume, x, y),
    words && text((from + to) / 2, y + 13, words, { class: "on-colour", "text-anchor": "middle" }));
}

export function split(view, width) {
  if (!view.volumes.length) return nothing("No plan is known yet.");
  const pitch = BAR + 24;
  const drawn = view.volumes.map((volume, v) => {
    const y = v * pitch + 17;
    const x = scale(0, volume.height, 0, width);
    return s("g", { "data-key": `volume-${v}` },
      text(0, y - 5, clipped(`V${v}  ${layers(volume.layers)}`, width - 70), { class: "small strong" }),
      text(width, y - 5, `${volume.height} rows`, { class: "small", "text-anchor": "end" }),
      volume.parts.filter((part) => part.rows[1] > part.rows[0])
        .map((part) => drawnPart(view, volume, part, v, x, y)));
  });
  const names = view.nodes.map((node) => node.node).filter((name) => colour(view, name) !== "px");
  return [
    h("div", { class: "tall" }, chart(width, view.volumes.length * pitch, "Rows of each layer-volume by provider.", drawn)),
    legend(...names.map((name) => [colour(view, name), name]), ["halo-swatch", "halo: computed twice"]),
    table("split-table", ["Volume", "Layers", "Provider", "Rows", "Of", "Halo rows"], () =>
      view.volumes.flatMap((volume, v) => volume.parts.map((part) => [`V${v}`, layers(volume.layers), part.provider,
        part.rows[1] > part.rows[0] ? `${part.rows[0]} to ${part.rows[1] - 1}` : "none", volume.height, part.halo_rows]))),
  ];
}
