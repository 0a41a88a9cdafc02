// The page: asks the controller once a second, and draws what it answers.

import * as actions from "./actions.js";
import { get, Refused, token } from "./api.js";
import { at, update } from "./dom.js";
import { clock, span } from "./format.js";
import * as hover from "./hover.js";
import { devices } from "./views/devices.js";
import { showEvents } from "./views/events.js";
import { history } from "./views/history.js";
import { methods } from "./views/methods.js";
import { split } from "./views/split.js";
import { choices, facts, summary } from "./views/summary.js";
import { timeline } from "./views/timeline.js";
import { topology } from "./views/topology.js";
import { training } from "./views/training.js";

const EVERY_MS = 1000;

const VIEWS = { topology, history, split, timeline, methods, training };

const state = {
  overview: null,
  view: null,
  chosen: decodeURIComponent(location.hash.slice(1)) || null,
  lostSince: null,
  timer: null,
  round: 0,
};

// Asking.

/** The stream that was chosen if there still is one, else the first live one, else the first. */
function choice({ streams }) {
  const chosen = streams.find(({ stream }) => stream === state.chosen) ?? streams.find(({ live }) => live) ?? streams[0];
  return chosen?.stream ?? null;
}

async function viewOf(stream) {
  try {
    return await get(`v1/streams/${encodeURIComponent(stream)}`);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null; // it has gone since the overview was made
    throw error;
  }
}

/** Ask once, and again in a second. A newer round (another stream, a token) makes an older one's answer void. */
async function poll() {
  clearTimeout(state.timer);
  const round = ++state.round;
  let wait = EVERY_MS;
  try {
    const overview = await get("v1/overview");
    const stream = choice(overview);
    const view = stream === null ? null : await viewOf(stream);
    if (round !== state.round) return;
    Object.assign(state, { overview, view, lostSince: null, chosen: stream });
    answered();
  } catch (error) {
    if (round !== state.round) return;
    if (error instanceof Refused && error.status === 401) wait = null;
    failed(error);
  }
  if (wait !== null && !document.hidden) state.timer = setTimeout(poll, wait);
}

function answered() {
  at("entry").hidden = true;
  at("lost").hidden = true;
  at("main").hidden = false;
  at("forget").hidden = token.get() === null;
  document.body.classList.remove("stale");
  connection("live", "live");
  render();
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) return askForToken(error);
  state.lostSince ??= Date.now() / 1000;
  const since = `since ${clock(state.lostSince)} (${span(Date.now() / 1000 - state.lostSince)})`;
  update(at("lost"), error instanceof Refused ? `The controller answers with an error ${since}: ${error.message}`
    : `The controller cannot be reached ${since}. The page goes on asking${state.overview ? "; its figures are of before" : ""}.`);
  at("lost").hidden = false;
  document.body.classList.add("stale");
  connection("lost", "not reachable");
}

function askForToken(error) {
  const wrong = token.get() !== null;
  if (wrong) token.forget();
  update(at("entry-why"), wrong ? `The controller does not accept this token (${error.message}).`
    : "This controller shows itself to those who have a token.");
  Object.assign(state, { overview: null, view: null });
  at("main").hidden = at("lost").hidden = at("forget").hidden = true;
  document.body.classList.remove("stale");
  update(at("facts"));
  connection("waiting", "token needed");
  at("entry").hidden = false;
  at("token").focus();
}

function connection(kind, words) {
  at("connection").dataset.state = kind;
  update(at("connection").firstElementChild, words);
}

// Drawing.

function draw(id) {
  const box = at(id);
  update(box, VIEWS[id](state.view, Math.max(260, box.clientWidth), state.overview.now_s));
}

function render() {
  const { overview, view } = state;
  if (!overview) return;
  update(at("facts"), facts(overview));
  update(at("stream"), choices(overview, state.chosen));
  at("stream").value = state.chosen;
  document.querySelector(".stream").hidden = at("figures").hidden = view === null;
  at("no-streams").hidden = overview.streams.length > 0;
  update(at("start-command"), `distredge run plan.json --controller ${location.origin}`);
  update(at("devices"), devices(overview));
  if (view) renderStream(overview, view);
  hover.refresh();
}

function renderStream(overview, view) {
  update(at("summary"), summary(view, overview.now_s));
  update(at("actions"), actions.actions(view, overview.role));
  Object.keys(VIEWS).forEach(draw);
  showEvents(view);
}

// Listening.

function choose(stream) {
  state.chosen = stream;
  window.history.replaceState(null, "", `#${encodeURIComponent(stream)}`);
  update(at("answer"));
  poll();
}

function useToken(event) {
  event.preventDefault();
  token.set(at("token").value.trim());
  at("token").value = "";
  poll();
}

function onVisibility() {
  if (document.hidden) {
    clearTimeout(state.timer);
    connection("waiting", "paused");
  } else {
    poll();
  }
}

hover.listen();
actions.listen(() => state.chosen, poll);
at("stream").addEventListener("change", (event) => choose(event.target.value));
at("token-form").addEventListener("submit", useToken);
at("forget").addEventListener("click", () => {
  token.forget();
  poll();
});
at("event-kind").addEventListener("change", render);
at("event-text").addEventListener("input", render);
document.addEventListener("toggle", render, true);
document.addEventListener("visibilitychange", onVisibility);
new ResizeObserver(render).observe(at("figures"));
poll();
