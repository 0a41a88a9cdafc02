// The small text beside the pointer, or beside the focused part of a chart; and the arrow keys in a chart.

import { at } from "./dom.js";

let shown = null;

function show(element, x, y) {
  shown = element;
  const box = at("tip");
  box.textContent = element.dataset.tip;
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  const left = Math.min(Math.max(4, x + 12), document.documentElement.clientWidth - width - 4);
  const below = y + 16 + height < window.innerHeight;
  box.style.setProperty("--left", `${Math.max(4, left)}px`);
  box.style.setProperty("--top", `${below ? y + 16 : Math.max(4, y - height - 10)}px`);
}

function hide() {
  shown = null;
  at("tip").hidden = true;
}

function showAtElement(element) {
  const box = element.getBoundingClientRect();
  show(element, box.left + Math.min(box.width, 40) / 2, Math.min(box.bottom, window.innerHeight - 20) - 10);
}

/** After an update: the text may be another now, or what it belonged to is gone. */
export function refresh() {
  if (!shown) return;
  if (!shown.isConnected || !shown.dataset.tip) hide();
  else at("tip").textContent = shown.dataset.tip;
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

function onKey(event) {
  const svg = event.target.closest?.("svg.chart");
  if (event.key === "Escape") {
    hide();
    if (svg && event.target !== svg) svg.focus();
    return;
  }
  if (!svg) return;
  const parts = [...svg.querySelectorAll("[data-tip][tabindex]")];
  const now = parts.indexOf(event.target);
  const next = { Home: 0, End: parts.length - 1 }[event.key] ?? (event.key in STEPS ? now + STEPS[event.key] : null);
  if (next === null || !parts.length) return;
  event.preventDefault();
  parts[Math.min(Math.max(next, 0), parts.length - 1)].focus();
}

/** Listen, once, for the whole page. */
export function listen() {
  document.addEventListener("pointermove", (event) => {
    const element = event.target.closest?.("[data-tip]");
    if (element) show(element, event.clientX, event.clientY);
    else if (shown && shown !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => (event.target.dataset?.tip ? showAtElement(event.target) : hide()));
  document.addEventListener("scroll", () => shown && hide(), { passive: true });
  document.addEventListener("keydown", onKey);
}
