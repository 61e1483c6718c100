// @ts-check
/** Screens, engines, sets, what was asked and what was played. */

import { deed, element, keep, make, mark, say } from "../shared/dom.js";
import * as words from "./words.js";

/** Seconds without a painted frame, while a picture is drawn, after which a screen is looked at twice. */
const QUIET = 15;
const NAMED = 12;

export class Lists {
  #act;

  /** @param {(command: string, args: any) => void} act */
  constructor(act) {
    this.#act = act;
  }

  /** @param {import("./types.js").State} state */
  show(state) {
    this.#screens(state.screens);
    this.#engines(state.engines);
    this.#sets(state.coverage);
    this.#log(state.commands);
  }

  /** Forget what hours were told in another time zone. */
  clear() {
    element("log").replaceChildren();
    element("asrun").replaceChildren();
  }

  /** @param {import("./connection.js").ServerConnection} server */
  tick(server) {
    const drawing = server.state.now && !server.state.now.outcome && server.state.now.step > 0;
    for (const row of element("screens").children) {
      if (row.dataset.trouble) continue;
      const at = Number(row.dataset.painted);
      const past = at ? server.now() - at : null;
      say(row.querySelector(".age"), past === null ? "has painted nothing yet" : `painted ${words.age(past)} ago`);
      mark(row, "quiet", drawing && (past === null || past > QUIET) ? "" : null);
    }
  }

  /** @param {import("./types.js").ScreenState[]} screens */
  #screens(screens) {
    const there = screens.filter((screen) => screen.connected).length;
    const all = there === screens.length ? String(there) : `${there} of ${screens.length}`;
    say(element("screens-title").querySelector(".count"), there ? all : "none connected");
    mark(element("screens").parentElement, "alarm", there && there === screens.length ? null : "");
    keep(
      element("screens"),
      screens,
      (screen) => `${screen.connected ? "there" : "missing"} ${screen.screen}`,
      (screen) =>
        make(
          "li",
          {},
          make("span", { className: "name" }, screen.screen),
          make("span", { className: "age" }),
          ...(screen.connected
            ? [
                deed(this.#act, "Identify", "identify", { screen: screen.screen }, `Have ${screen.screen} show its name`),
                deed(this.#act, "Reload", "reload", { screen: screen.screen }, `Have ${screen.screen} load its page anew`),
              ]
            : [deed(this.#act, "Forget", "screens.forget", { screen: screen.screen }, `Expect ${screen.screen} no more`)]),
        ),
      (row, screen) => {
        mark(row, "trouble", screen.trouble ? "yes" : null);
        if (screen.trouble) {
          say(row.querySelector(".age"), screen.trouble.replace(`${screen.screen}: `, ""));
        }
        row.dataset.painted = String(screen.painted_at ?? "");
        row.title = screen.skipped ? `${screen.skipped} frames skipped` : "";
      },
    );
  }

  /** @param {import("./types.js").EngineState[]} engines */
  #engines(engines) {
    say(element("engines-title").querySelector(".count"), engines.length ? String(engines.length) : "none: sets alone are played");
    keep(
      element("engines"),
      engines,
      (engine) => engine.name,
      (engine) =>
        make(
          "li",
          {},
          make("span", { className: "name" }, engine.name),
          make("span", { className: "age" }),
          deed(this.#act, "Reset", "engine.reset", { engine: engine.name }, `Trust ${engine.name} again`),
        ),
      (row, engine) => {
        const place = engine.local ? "here" : "remote";
        say(row.querySelector(".age"), `${place} · ${engine.state}${engine.reason ? `: ${engine.reason}` : ""}`);
        mark(row, "state", engine.state);
      },
    );
  }

  /** @param {import("./types.js").CoverageState} coverage */
  #sets(coverage) {
    const count = element("sets-title").querySelector(".count");
    say(count, `${coverage.with_sets} of ${coverage.actions} cues have sets`);
    const lines = [];
    const missing = coverage.without_sets;
    if (missing.length) {
      lines.push(`without sets: ${missing.slice(0, NAMED).join(", ")}${missing.length > NAMED ? ` and ${missing.length - NAMED} more` : ""}`);
    }
    for (const fault of coverage.faulty_sets.slice(0, NAMED)) lines.push(`${fault.action_id} set ${fault.set_id}: ${fault.reason}`);
    keep(element("sets"), lines, (line, index) => `${index} ${line}`, (line) => make("p", {}, line), () => {});
    const { style } = element("sets").parentElement;
    style.setProperty("--share", String(coverage.actions ? coverage.with_sets / coverage.actions : 1));
  }

  /** @param {import("./types.js").CommandState[]} commands newest first */
  #log(commands) {
    keep(
      element("log"),
      commands,
      (entry) => String(entry.number),
      (entry) => {
        const args = Object.entries(entry.args ?? {}).map(([name, value]) => `${name} ${value}`);
        const row = make(
          "li",
          {},
          make("time", { className: "at" }, words.timeOfDay(entry.at)),
          make("span", { className: "name" }, [entry.command, ...args].join(" · ")),
          make("span", { className: "age" }, words.who(entry.sender)),
          entry.ok ? null : make("span", { className: "why" }, entry.message ?? entry.code),
        );
        mark(row, "ok", entry.ok ? null : "no");
        return row;
      },
      () => {},
    );
  }

  /** @param {any[]} rows */
  asrun(rows) {
    keep(
      element("asrun"),
      rows,
      (row) => row.run,
      (row) =>
        make(
          "li",
          {},
          make("time", { className: "at" }, words.timeOfDay(row.started_wall)),
          make("span", { className: "name" }, row.action_id),
          make("span", { className: "age" }),
          make("span", { className: "why" }, row.why === "its cue" ? "" : row.why),
        ),
      (node, row) => {
        const outcome = row.outcome ?? "playing";
        const failed = (row.failovers ?? []).map((/** @type {any} */ f) => `${f.from} → ${f.to}`).join(", ");
        const forced = row.forced_by ? ` · forced by ${words.who(row.forced_by)}` : "";
        const played = row.provider === "hold" ? words.source(row) : `${words.source(row)} · ${outcome}`;
        say(node.querySelector(".age"), `${played}${failed ? ` · ${failed}` : ""}${forced}`);
        mark(node, "outcome", outcome);
      },
    );
  }
}
