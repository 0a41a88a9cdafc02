// Numbers as people read them: few digits, a real minus, the unit behind a space that does not break.

const SPACE = "\u00a0";
const NONE = "–";

function digits(value) {
  const size = Math.abs(value);
  return size >= 100 ? 0 : size >= 10 ? 1 : 2;
}

/** A number with about three digits. */
export function number(value, places = digits(value)) {
  return value.toFixed(places).replace("-", "\u2212");
}

function unit(name) {
  return (value) => (value === null || value === undefined ? NONE : number(value) + SPACE + name);
}

export const ms = unit("ms");
export const ips = unit("IPS");
export const seconds = unit("s");

/** A link's rate; null means that it never limits. */
export function mbps(value) {
  return value === null || value === undefined ? "no limit" : number(value) + SPACE + "Mbit/s";
}

/** `+18 %`, of a share by which something has changed. */
export function change(share) {
  const percent = Math.round(share * 100);
  return (percent > 0 ? "+" : percent < 0 ? "\u2212" : "±") + Math.abs(percent) + SPACE + "%";
}

/** `38 %`. */
export function share(value) {
  return number(value * 100, value > 0 && value < 0.1 ? 1 : 0) + SPACE + "%";
}

/** `×1.80`. */
export function factor(value) {
  return "×" + number(value, 2);
}

/** Megabytes, as MB or GB. */
export function memory(mb) {
  if (mb === null || mb === undefined) return NONE;
  return mb < 1000 ? number(mb, 0) + SPACE + "MB" : number(mb / 1000) + SPACE + "GB";
}

/** The time of day, here, of Unix seconds. */
export function clock(at_s) {
  return new Date(at_s * 1000).toLocaleTimeString("en-GB");
}

/** Date and time of day. */
export function moment(at_s) {
  const date = new Date(at_s * 1000);
  return `${date.toLocaleDateString("en-CA")} ${clock(at_s)}`;
}

/** How long ago, or how long: `3 s`, `12 min`, `5.2 h`. */
export function span(s) {
  if (s < 100) return Math.max(0, Math.round(s)) + SPACE + "s";
  if (s < 6000) return Math.round(s / 60) + SPACE + "min";
  return number(s / 3600, 1) + SPACE + "h";
}

/** `1 device`, `2 devices`. */
export function count(n, thing) {
  return `${n}${SPACE}${thing}${n === 1 ? "" : "s"}`;
}

/** A text in about so many pixels, with its end left out if it is longer. */
export function clipped(text, pixels, each = 6.8) {
  const room = Math.floor(pixels / each);
  return text.length <= room ? text : room < 2 ? "" : text.slice(0, room - 1) + "…";
}

/** First layer to last. */
export function layers([first, last]) {
  return first === last ? first : `${first} … ${last}`;
}
