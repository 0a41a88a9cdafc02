// What an operator can tell a stream: pin, unpin, roll back; each asks for a reason first.

import { post, Refused } from "./api.js";
import { at, h, update } from "./dom.js";

const ACTIONS = {
  pin: {
    title: "Pin the plan",
    what: "The requester keeps the plan in force, whatever drifts, as long as its devices are there.",
    done: "Pinned.",
  },
  unpin: {
    title: "Unpin the plan",
    what: "The requester and the controller may change the plan again.",
    done: "No longer pinned.",
  },
  rollback: {
    title: "Roll back",
    what: "The requester goes back to the plan before the one in force, between two frames.",
    done: "Ordered: the plan before.",
  },
};

let asked = null;
let afterwards = () => {};

function button(action, disabled, why) {
  return h("button", { type: "button", "data-key": action, "data-action": action, disabled,
    "aria-describedby": why ? `why-${action}` : null }, ACTIONS[action].title);
}

/** The buttons for a role and a stream; for who may not use them, why there are none. */
export function actions({ summary, can_roll_back }, role) {
  if (role !== "operator") {
    return h("p", { class: "note", "data-key": "role" }, `The role ${role} looks only; an operator can pin and roll back.`);
  }
  const why = !summary.live ? "The stream has ended." : can_roll_back ? "" : "There is no plan to roll back to.";
  return [
    button(summary.orders.pinned ? "unpin" : "pin", !summary.live),
    button("rollback", !summary.live || !can_roll_back, why),
    why && h("span", { class: "note", id: "why-rollback", "data-key": "why" }, why),
  ];
}

function ask(action, stream) {
  asked = { action, stream };
  const { title, what } = ACTIONS[action];
  update(at("confirm-title"), title);
  update(at("confirm-what"), `${what} Stream ${stream}.`);
  update(at("confirm-do"), title);
  update(at("confirm-error"));
  at("reason").value = "";
  at("confirm").showModal();
  at("reason").focus();
}

async function confirmed(event) {
  event.preventDefault();
  const { action, stream } = asked;
  const reason = at("reason").value.trim();
  if (!reason) return update(at("confirm-error"), "Say why: it is kept with the event.");
  at("confirm-do").disabled = true;
  try {
    const orders = await post(`v1/streams/${encodeURIComponent(stream)}/${action}`, { reason });
    at("confirm").close();
    update(at("answer"), `${ACTIONS[action].done} Orders of version ${orders.version} wait for the requester.`);
    afterwards();
  } catch (error) {
    update(at("confirm-error"), error instanceof Refused ? error.message : "The controller cannot be reached.");
  } finally {
    at("confirm-do").disabled = false;
  }
}

/** Listen, once. `streamNow` gives the chosen stream; `then` is called when an order was given. */
export function listen(streamNow, then) {
  afterwards = then;
  at("actions").addEventListener("click", (event) => {
    const action = event.target.closest("button")?.dataset.action;
    if (action) ask(action, streamNow());
  });
  at("confirm-form").addEventListener("submit", confirmed);
  at("confirm-cancel").addEventListener("click", () => at("confirm").close());
}
