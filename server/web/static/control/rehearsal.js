// @ts-check
/** Rehearsing in the background. It is never the show: its own colour, its own words, and nothing on the walls. */

import { here } from "../shared/address.js";
import { element, make, mark, say } from "../shared/dom.js";
import * as findings from "./findings.js";
import * as words from "./words.js";

const TOLD = 5;

export class Rehearsal {
  #root = element("rehearsal");
  #form = element("rehearse-form");
  /** What may be made to fail, as it was last offered. */
  #offered = "";

  /** @param {(command: string, args: any) => void} act */
  constructor(act) {
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      act("rehearse", this.#order());
    });
    const more = element("rehearse-more");
    more.addEventListener("click", () => {
      const terms = element("rehearse-terms");
      terms.hidden = !terms.hidden;
      more.setAttribute("aria-expanded", String(!terms.hidden));
    });
  }

  /** What the form asks for; what is left as it is is not said. */
  #order() {
    const text = (/** @type {string} */ id) => element(id).value.trim();
    const screenings = Number(text("rehearse-screenings") || 1);
    const asked = {
      screenings: screenings !== 1 && screenings,
      bandwidth: text("rehearse-bandwidth"),
      latency: Number(text("rehearse-latency") || 0) / 1000,
      fail: text("rehearse-fail"),
      deep: element("rehearse-deep").checked,
    };
    return Object.fromEntries(Object.entries(asked).filter(([, value]) => value));
  }

  /** @param {import("./connection.js").ServerConnection} server */
  show(server) {
    const { rehearsal } = server.state;
    this.#root.hidden = !rehearsal;
    if (!rehearsal) return;
    this.#offer(server.state.engines, server.state.coverage);
    const running = rehearsal.status === "running";
    const told = rehearsal.verdict ? rehearsal : rehearsal.previous;
    mark(this.#root, "status", rehearsal.status);
    mark(this.#root, "verdict", running ? null : (rehearsal.verdict ?? null));
    const [said, when] = this.#told(rehearsal);
    say(element("rehearsal-said"), said);
    say(element("rehearsal-when"), when);
    say(element("rehearsal-asked"), words.asked(rehearsal.asked));
    say(element("rehearsal-counts"), rehearsal.verdict ? words.counts(rehearsal) : "");
    findings.tell(element("rehearsal-findings"), rehearsal.worst, TOLD);
    const link = element("rehearsal-report");
    link.hidden = !told?.report;
    if (told?.report) link.href = here(told.report);
    const at = told?.finished_at ? words.timeOfDay(told.finished_at) : "";
    say(link, rehearsal.verdict ? "Open the report" : `Open the report of ${at} (${told?.verdict ?? ""})`);
    element("rehearse").hidden = element("rehearse-more").hidden = running;
    if (running) element("rehearse-terms").hidden = true;
    if (running) element("rehearse-more").setAttribute("aria-expanded", "false");
    element("rehearse-cancel").hidden = !running;
    this.tick(server);
  }

  /** What is said of it, and of when it was, by its status. @param {import("./types.js").RehearsalState} rehearsal */
  #told({ status, verdict, reason, by, finished_at: finished }) {
    const at = finished ? words.timeOfDay(finished) : "";
    const told = {
      none: ["not rehearsed from here yet", ""],
      running: ["Rehearsing", `in the background, for ${words.who(by)}: the show goes on`],
      done: [verdict === "ready" ? "Ready" : "Not ready", `rehearsed at ${at} for ${words.who(by)}`],
      failed: [reason.charAt(0).toUpperCase() + reason.slice(1), `at ${at}, for ${words.who(by)}`],
      cancelled: ["Broken off", `at ${at}, ${words.who(reason)}`],
    };
    return told[status];
  }

  /** The seconds, apart: they are not read out. @param {import("./connection.js").ServerConnection} server */
  tick(server) {
    const rehearsal = server.state?.rehearsal;
    const running = rehearsal?.status === "running";
    const seconds = running ? Math.max(0, server.now() - (rehearsal.since ?? server.now())) : (rehearsal?.seconds ?? null);
    say(element("rehearsal-seconds"), seconds === null ? "" : running ? `${Math.floor(seconds)} s` : `took ${words.age(seconds)}`);
  }

  /** @param {import("./types.js").EngineState[]} engines @param {import("./types.js").CoverageState} coverage */
  #offer(engines, coverage) {
    const missing = new Set(coverage.without_sets);
    const names = engines.map((engine) => engine.name);
    const key = JSON.stringify([names, this.actions]);
    if (key === this.#offered) return;
    this.#offered = key;
    const field = element("rehearse-fail");
    const chosen = field.value;
    const option = (/** @type {string} */ value, /** @type {string} */ text) => make("option", { value }, text);
    field.replaceChildren(
      option("", "nothing"),
      option("store", "the store is silent"),
      ...(names.length ? [option("engines", "every engine is dead")] : []),
      ...names.map((name) => option(name, `${name} is dead`)),
      make("optgroup", { label: "a cue’s sets are gone" }, ...this.actions.filter((name) => !missing.has(name)).map((name) => option(name, name))),
    );
    field.value = chosen;
    if (field.selectedIndex < 0) field.value = "";
  }

  /** The actions of the show, once they are known. @type {string[]} */
  actions = [];
}
