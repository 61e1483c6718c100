// @ts-check
/** How the last day went, in four figures. */

import { element, say } from "../../shared/dom.js";
import * as words from "../words.js";

/** @param {import("../types.js").Stats} stats */
export function show(stats) {
  say(element("figure-success"), words.percent(stats.success_rate));
  say(element("figure-pictures"), stats.pictures.toLocaleString("en-GB"));
  say(element("figure-p95"), stats.p95_seconds === null ? "–" : words.duration(stats.p95_seconds));
  say(element("figure-cost"), stats.cost === null ? "–" : words.money(stats.cost, stats.currency) || "0");
}
