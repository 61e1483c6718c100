// @ts-check
/** The preflight: what the server found when it last looked through everything by itself. */

import { element, mark, say } from "./dom.js";
import * as findings from "./findings.js";
import * as words from "./words.js";

const TOLD = 4;

/** @param {import("./types.js").State} state */
export function show(state) {
  const { preflight } = state;
  const root = element("preflight");
  root.hidden = !preflight;
  if (!preflight) return;
  mark(root, "verdict", preflight.verdict);
  say(element("preflight-at"), preflight.at === null ? "" : words.timeOfDay(preflight.at).slice(0, 5));
  say(
    element("preflight-said"),
    preflight.verdict === null ? "waits for a quiet moment" : `${preflight.verdict}${words.counts(preflight) ? `: ${words.counts(preflight)}` : ""}`,
  );
  const found = preflight.findings;
  findings.tell(element("preflight-findings"), found.filter((f) => f.level !== "note"), TOLD);
  const more = preflight.errors + preflight.warnings - TOLD;
  say(element("preflight-more"), more > 0 ? `and ${more} more: rehearse to see them all` : "");
}
