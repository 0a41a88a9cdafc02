// How the policy got better while it was last fine-tuned.

import { chart, hoverTip, nothing, scale, table, text, ticks, tip } from "../chart.js";
import { h, s } from "../dom.js";
import { change, ms, number, seconds } from "../format.js";

const LEFT = 54, RIGHT = 10, TOP = 10, HEIGHT = 190, BOTTOM = HEIGHT - 22;

function dot(point, x, y, tipOf) {
  return s("circle", { class: "dot", cx: x(point.seconds).toFixed(1), cy: y(point.latency_ms).toFixed(1), r: 3.5,
    ...tipOf(`after ${seconds(point.seconds)}: ${ms(point.latency_ms)}`) });
}

export function training(view, width) {
  const points = view.training;
  if (!points.length) return nothing("No policy has been fine-tuned for this stream.");
  const [first, last] = [points[0], points.at(-1)];
  const marks = ticks(Math.max(...points.map((p) => p.latency_ms)));
  const x = scale(0, last.seconds, LEFT, width - RIGHT);
  const y = scale(0, marks.at(-1), BOTTOM, TOP);
  const across = ticks(last.seconds).filter((value) => value <= last.seconds);
  const path = "M" + points.map((p) => `${x(p.seconds).toFixed(1)} ${y(p.latency_ms).toFixed(1)}`).join("L");
  return [
    h("p", { class: "note" }, `${ms(first.latency_ms)} at first, ${ms(last.latency_ms)} after ${seconds(last.seconds)} ` +
      `(${change(last.latency_ms / first.latency_ms - 1)}): latency of what the policy decides.`),
    chart(width, HEIGHT, "Latency of the policy's plans during the last fine-tuning.",
      marks.map((value) => s("g", { class: "axis", "data-key": `y-${value}` },
        s("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        text(LEFT - 5, y(value) + 4, number(value, value % 1 ? 1 : 0), { "text-anchor": "end" }))),
      across.map((value) => text(x(value), HEIGHT - 5, value ? seconds(value) : "0 s", { class: "tick",
        "text-anchor": value === 0 ? "start" : value === last.seconds ? "end" : "middle", "data-key": `x-${value}` })),
      text(0, TOP + 4, "ms", { class: "unit" }),
      s("path", { class: "p50", d: path }),
      points.map((point, k) => dot(point, x, y, points.length <= 40 || k === points.length - 1 ? tip : hoverTip))),
    table("training-table", ["After", "Latency"], () => points.map((p) => [seconds(p.seconds), ms(p.latency_ms)])),
  ];
}
