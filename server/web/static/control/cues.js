// @ts-check
/** The cue list: where the show is in it, how ready each cue is, standby and go on any of them. */

import { deed, element, make, mark, say } from "../shared/dom.js";
import * as words from "./words.js";

/** Seconds for which the list stays where somebody scrolled it. */
const LEFT_ALONE = 12;

export class Cues {
  #list = element("cue-list");
  #act;
  /** @type {import("./types.js").CueState[]} */
  #cues = [];
  /** @type {Map<number, any>} */
  #rows = new Map();
  /** @type {number | null} */
  #chosen = null;
  #current = -1;
  #touchedAt = -Infinity;

  /** @param {(command: string, args: any) => void} act */
  constructor(act) {
    this.#act = act;
    element("cues-all").addEventListener("change", () => this.#filter());
    element("cues-follow").addEventListener("click", () => {
      this.#touchedAt = -Infinity;
      this.#follow();
    });
    for (const event of ["wheel", "touchmove", "pointerdown"]) {
      this.#list.addEventListener(event, () => (this.#touchedAt = performance.now() / 1000), { passive: true });
    }
  }

  /** @param {import("./types.js").CueState[]} cues */
  load(cues) {
    this.#cues = cues;
    this.#rows = new Map(cues.map((cue) => [cue.index, this.#row(cue)]));
    this.#list.replaceChildren(...this.#rows.values());
    this.#current = -1;
    const drawing = cues.filter((cue) => cue.program).length;
    say(element("cues-count"), `${drawing} of ${cues.length} draw`);
    this.#filter();
  }

  /** What of readiness has changed, without touching the rows. @param {import("./types.js").CueState[]} cues */
  refresh(cues) {
    if (cues.length !== this.#cues.length) return this.load(cues);
    this.#cues = cues;
    for (const cue of cues) this.#dress(this.#rows.get(cue.index), cue);
  }

  #filter() {
    mark(this.#list, "all", element("cues-all").checked ? "" : null);
    this.#follow();
  }

  /** @param {import("./types.js").CueState} cue */
  #row(cue) {
    const choose = make(
      "button",
      { type: "button", className: "cue", aria: { expanded: "false" }, on: { click: () => this.#choose(cue.index) } },
      make("span", { className: "at" }, cue.time),
      make("span", { className: "kind" }, words.kind(cue)),
      make("span", { className: "said" }, words.said(cue)),
      make("span", { className: "stock" }),
    );
    const row = make("li", { data: { index: String(cue.index) } }, choose);
    if (cue.program) mark(row, "draws", "");
    this.#dress(row, cue);
    return row;
  }

  /** @param {any} row @param {import("./types.js").CueState} cue */
  #dress(row, cue) {
    if (!cue.program) return;
    const stock = row.querySelector(".stock");
    say(stock, cue.sets ? `${cue.provider} ${cue.sets}` : String(cue.provider));
    stock.setAttribute("aria-label", cue.ready ? `ready, ${cue.sets} sets` : "not ready");
    mark(row, "ready", cue.ready ? "yes" : "no");
  }

  /** @param {number} index */
  #choose(index) {
    const before = this.#chosen === null ? null : this.#rows.get(this.#chosen);
    if (before) {
      before.querySelector(".deeds")?.remove();
      before.querySelector(".cue").setAttribute("aria-expanded", "false");
    }
    this.#chosen = this.#chosen === index ? null : index;
    if (this.#chosen === null) return;
    const row = this.#rows.get(index);
    const cue = this.#cues[index];
    const name = cue.cue ?? cue.index;
    row.querySelector(".cue").setAttribute("aria-expanded", "true");
    row.append(
      make(
        "div",
        { className: "deeds" },
        make("span", { className: "name" }, `${cue.cue ?? `cue ${cue.index}`}${cue.program ? ` · ${cue.program}` : ""}`),
        ...(cue.program
          ? ["static", "live"].map((mode) => deed(this.#act, mode, "mode.force", { mode, cue: cue.cue }, `Force ${mode} for ${name} until it is released`))
          : []),
        deed(this.#act, "Standby", "standby", { cue: cue.index }, `Put ${name} on standby`),
        deed(this.#act, "Go here", "go", { cue: cue.index }, `Go to ${name} now`),
      ),
    );
    this.onchoose();
  }

  /** Called when new buttons have appeared. */
  onchoose() {}

  /** @param {import("./connection.js").ServerConnection} server */
  show(server) {
    const { state } = server;
    const at = server.position();
    const standby = state.standby?.index ?? -1;
    let current = -1;
    // The last that draws and has been: from the picture that is on, else from the position.
    const { now } = state;
    const onstage = now && at !== null ? this.#cues.find((cue) => cue.cue === now.cue) : null;
    if (onstage) current = onstage.index;
    else if (at !== null) for (const cue of this.#cues) if (cue.program && cue.at <= at) current = cue.index;
    for (const [index, row] of this.#rows) {
      mark(row, "when", index === current ? "now" : at !== null && this.#cues[index].at <= at ? "past" : null);
      mark(row, "standby", index === standby ? "" : null);
    }
    if (current !== this.#current) {
      this.#rows.get(this.#current)?.querySelector(".cue").removeAttribute("aria-current");
      this.#rows.get(current)?.querySelector(".cue").setAttribute("aria-current", "step");
      this.#current = current;
      this.#follow();
    }
    element("cues-follow").hidden = !this.#leftAlone;
  }

  get #leftAlone() {
    return performance.now() / 1000 - this.#touchedAt < LEFT_ALONE;
  }

  /** Keep the cue that is on a little below the top of the list, inside the list alone: never scroll the page. */
  #follow() {
    if (this.#leftAlone) return;
    const row = this.#rows.get(this.#current) ?? this.#list.querySelector("[data-standby]");
    if (!row || this.#list.scrollHeight <= this.#list.clientHeight) return;
    this.#list.scrollTop = row.offsetTop - this.#list.clientHeight * 0.25;
  }
}
