// @ts-check
/** What would go wrong: each with its cue, its cause and what to do. A rehearsal and the preflight tell it alike. */

import { element, keep, make, mark, say } from "../shared/dom.js";
import * as words from "./words.js";

/** How many the preflight tells. */
const PREFLIGHT_TOLD = 4;

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

/** What the server found when it last looked through everything by itself. @param {import("./types.js").State} state */
export function preflight(state) {
  const { preflight: last } = state;
  const root = element("preflight");
  root.hidden = !last;
  if (!last) return;
  mark(root, "verdict", last.verdict);
  say(element("preflight-at"), last.at === null ? "" : words.timeOfDay(last.at).slice(0, 5));
  say(
    element("preflight-said"),
    last.verdict === null ? "waits for a quiet moment" : `${last.verdict}${words.counts(last) ? `: ${words.counts(last)}` : ""}`,
  );
  tell(element("preflight-findings"), last.findings.filter((f) => f.level !== "note"), PREFLIGHT_TOLD);
  const more = last.errors + last.warnings - PREFLIGHT_TOLD;
  say(element("preflight-more"), more > 0 ? `and ${more} more: rehearse to see them all` : "");
}
