// @ts-check
/** What would go wrong: each with its cue, its cause and what to do. A rehearsal and the preflight tell it alike. */

import { keep, make, mark, say } from "./dom.js";
import * as words from "./words.js";

/**
 * @param {HTMLElement} list
 * @param {import("./types.js").FindingState[]} found the worst first
 * @param {number} most how many are told
 */
export function tell(list, found, most) {
  keep(
    list,
    found.slice(0, most),
    (finding) => `${finding.level} ${finding.code} ${finding.cue} ${finding.action_id} ${finding.set_id} ${finding.message}`,
    (finding) =>
      make(
        "li",
        {},
        make("span", { className: "level" }, finding.level),
        make("span", { className: "name" }, words.place(finding)),
        make("span", { className: "why" }, finding.message),
        make("span", { className: "remedy" }, finding.remedy),
      ),
    (row, finding) => {
      mark(row, "level", finding.level);
      say(row.querySelector(".name"), words.place(finding));
    },
  );
}
