// @ts-check
/** What waits, in its order; a row is moved by dragging it, by its buttons, or by keys. */

import { element, keep, make, mark, say } from "../../shared/dom.js";
import * as words from "../words.js";

/** @typedef {import("../types.js").Job} Job */
/** Where something goes in the queue. @typedef {{to: "up" | "down" | "first" | "last"} | {before: string} | {after: string}} Move */

/**
 * A move as the Studio takes it: to an end, or before another job (pure).
 * @param {Job[]} waiting in order, as far as it is known
 * @param {Job} job
 * @param {Move} move
 * @param {boolean} whole whether nothing waits behind these
 * @returns {{to: "first" | "last"} | {before: string} | null} null where it is there already
 */
export function asked(waiting, job, move, whole) {
  if ("to" in move && (move.to === "first" || move.to === "last")) return { to: move.to };
  const others = waiting.filter((each) => each.id !== job.id);
  const at = waiting.findIndex((each) => each.id === job.id);
  const place = (/** @type {string} */ id) => others.findIndex((each) => each.id === id);
  const to = "before" in move ? place(move.before) : "after" in move ? place(move.after) + 1 : move.to === "up" ? at - 1 : at + 1;
  if (to < 0 || to === at) return null;
  const next = others[to];
  if (next) return { before: next.id };
  return whole ? { to: "last" } : null;
}

/** @type {{to: "first" | "up" | "down" | "last", sign: string, says: string}[]} */
const MOVES = [
  { to: "first", sign: "⇈", says: "first" },
  { to: "up", sign: "↑", says: "up" },
  { to: "down", sign: "↓", says: "down" },
  { to: "last", sign: "⇊", says: "last" },
];

export class Waiting {
  #deeds;
  /** @type {string | null} */
  #dragged = null;

  /** @param {{move: (job: Job, move: Move) => void, cancel: (job: Job) => void, get: (id: string) => Job | undefined}} deeds */
  constructor(deeds) {
    this.#deeds = deeds;
    const list = element("waiting");
    list.addEventListener("dragover", (/** @type {DragEvent} */ event) => this.#over(event));
    list.addEventListener("drop", (/** @type {DragEvent} */ event) => this.#drop(event));
    list.addEventListener("dragend", () => this.#rest());
  }

  /** @param {Job[]} jobs @param {number} all how many wait altogether @param {(id: string) => number} age */
  show(jobs, all, age) {
    keep(element("waiting"), jobs, (job) => job.id, (job) => this.#make(job), (row, job) => this.#update(row, job, age(job.id)));
    const more = Math.max(0, all - jobs.length);
    element("waiting-more").hidden = !more;
    say(element("waiting-more"), more ? `and ${more.toLocaleString("en-GB")} more behind these` : "");
  }

  /** @param {Job} job */
  #make(job) {
    const mine = () => this.#deeds.get(job.id) ?? job;
    const row = make(
      "li",
      { className: "job row", tabIndex: -1, draggable: true, data: { job: job.id } },
      make("p", { className: "place" }),
      make("div", { className: "said" }, make("p", { className: "prompt spoken", dir: "auto" }), make("p", { className: "terms" }), make("p", { className: "why" })),
      make("p", { className: "state" }),
      make(
        "div",
        { className: "moves" },
        ...MOVES.map(({ to, sign, says }) => make("button", { type: "button", className: "move", data: { to }, aria: { label: `Move ${says}: ${words.prompt(job)}` }, title: `Move ${says}`, on: { click: () => this.#deeds.move(mine(), { to }) } }, sign)),
      ),
      make("div", { className: "deeds" }, make("button", { type: "button", className: "cancel", aria: { label: `Cancel ${words.prompt(job)}` }, on: { click: () => this.#deeds.cancel(mine()) } }, "Cancel")),
    );
    row.addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
      this.#dragged = job.id;
      event.dataTransfer?.setData("text/plain", words.prompt(job));
      mark(row, "dragged", "");
    });
    return row;
  }

  /** @param {HTMLElement} row @param {Job} job @param {number} age */
  #update(row, job, age) {
    const part = (/** @type {string} */ name) => /** @type {any} */ (row.querySelector(`.${name}`));
    mark(row, "status", job.status);
    say(part("place"), job.position ? String(job.position) : "");
    say(part("prompt"), words.prompt(job));
    say(part("terms"), [words.pictures(job.total), words.terms(job), words.priority(job.priority), words.hour(job.created_at, Date.now())].filter(Boolean).join(" · "));
    say(part("why"), job.error ? `Waits: ${words.why(job.error)}` : "");
    part("why").hidden = !job.error;
    say(part("state"), words.until(typeof job.eta_seconds === "number" ? Math.max(0, job.eta_seconds - age) : null));
    row.setAttribute("aria-label", `${words.prompt(job)}: number ${job.position ?? "?"} in the queue`);
  }

  /** @param {DragEvent} event */
  #over(event) {
    const row = this.#row(event);
    if (!this.#dragged || !row) return;
    event.preventDefault();
    this.#clear();
    if (row.dataset.job !== this.#dragged) mark(row, "drop", this.#half(event, row));
  }

  /** @param {DragEvent} event */
  #drop(event) {
    const row = this.#row(event);
    const job = this.#dragged ? this.#deeds.get(this.#dragged) : undefined;
    event.preventDefault();
    const over = row?.dataset.job;
    if (row && job && over && over !== job.id) this.#deeds.move(job, this.#half(event, row) === "before" ? { before: over } : { after: over });
    this.#rest();
  }

  #rest() {
    this.#clear();
    for (const row of element("waiting").querySelectorAll("[data-dragged]")) mark(row, "dragged", null);
    this.#dragged = null;
  }

  #clear() {
    for (const row of element("waiting").querySelectorAll("[data-drop]")) mark(row, "drop", null);
  }

  /** @param {DragEvent} event */
  #row(event) {
    return /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("#waiting > li"));
  }

  /** @param {DragEvent} event @param {HTMLElement} row */
  #half(event, row) {
    const { top, height } = row.getBoundingClientRect();
    return event.clientY < top + height / 2 ? "before" : "after";
  }
}
