// @ts-check
/** Everything that is wrong at this moment, in the server's own words, the worst first. */

import { element, keep, make, mark, say } from "../shared/dom.js";

/** The levels, in a technician's words. */
const MEANS = { failing: "failing", degraded: "trouble", note: "note" };

/** Where there is room, the list is open until somebody closes it. */
const roomy = matchMedia("(min-width: 700px)");
let shown = false;

/** @param {import("./types.js").ConditionState[]} conditions */
export function show(conditions) {
  const root = element("conditions");
  root.hidden = conditions.length === 0;
  if (!shown && conditions.length > 0) {
    shown = true;
    root.open = roomy.matches;
  }
  if (conditions.length === 0) return;
  const urgent = conditions.filter((each) => each.level !== "note");
  mark(root, "level", conditions[0].level);
  const noun = urgent.length > 0 ? "to look at" : "worth knowing";
  say(root.querySelector("summary span"), `${urgent.length || conditions.length} ${noun}`);
  keep(
    element("conditions-list"),
    conditions,
    (each, index) => `${each.code} ${conditions.slice(0, index).filter((other) => other.code === each.code).length}`,
    () => make("li", {}, make("span", { className: "level" }), make("span", { className: "message" })),
    (row, each) => {
      mark(row, "level", each.level);
      say(row.querySelector(".level"), MEANS[/** @type {keyof MEANS} */ (each.level)] ?? each.level);
      say(row.querySelector(".message"), each.message);
      row.title = each.code;
    },
  );
}
