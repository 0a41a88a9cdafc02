// What kind of event an event is to somebody who looks: the one place that knows how the controller names them
// (controller/events.py). A kind that is not here is shown in the log, without a mark.

const MARKS = [
  { mark: "drift", letter: "D", words: "drift", kinds: ["drift_seen", "large_drift", "device_lost", "device_returned"] },
  { mark: "replan", letter: "P", words: "re-plan, new plan",
    kinds: ["replan_started", "replan_done", "replan_failed", "plan_ordered", "plan_kept", "plan_in_force"] },
  { mark: "rollback", letter: "R", words: "roll-back", kinds: ["plan_rolled_back", "operator_rolled_back"] },
  { mark: "operator", letter: "O", words: "operator", kinds: ["pinned", "unpinned"] },
];

export const LEGEND = MARKS;

/** The mark of an event, or null if it has none. */
export function markOf(event) {
  return MARKS.find(({ kinds }) => kinds.includes(event.kind)) ?? null;
}

/** `plan_in_force` as people write it. */
export function words(kind) {
  return kind.replaceAll("_", " ");
}
