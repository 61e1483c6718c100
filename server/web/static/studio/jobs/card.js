// @ts-check
/**
 * A job with its pictures. They have their places from the beginning: a picture that comes, or fails, moves nothing. A
 * card is the same from the first step to the last: when its job is done it is only put elsewhere.
 */

import { element, keep, make, mark, say } from "../../shared/dom.js";
import { Picture } from "../picture.js";
import * as words from "../words.js";
import { ratio } from "./sizes.js";

/** Pictures of one job that are shown at once. */
const SHEET = 24;
/** Of one that is done. */
const ROW = 8;

/** @typedef {import("../types.js").Job} Job */
/** @typedef {import("../types.js").Item} Item */

/**
 * What can be done with a job.
 * @typedef {object} Deeds
 * @property {(job: Job) => void} cancel
 * @property {(job: Job, items?: number[]) => void} retry
 * @property {(job: Job) => void} reuse
 * @property {(job: Job, n: number) => void} open
 */

/** Where the finished picture of an item is. @param {Item} item */
export const finished = (item) => (item.take ? item.url ?? `/takes/${item.take}/final.jpg` : null);
/** @param {Item} item */
export const small = (item) => (item.take ? item.thumb ?? item.url ?? `/takes/${item.take}/thumb?w=320` : null);

export class Card {
  /** @type {HTMLElement} */
  node;
  #deeds;
  /** @type {Job} */
  job;
  /** The newest step of each picture. @type {Map<number, import("../types.js").Step>} */
  steps = new Map();
  /** @type {WeakMap<HTMLElement, Picture>} */
  #pictures = new WeakMap();
  #parts;

  /** @param {Job} job @param {Deeds} deeds */
  constructor(job, deeds) {
    this.job = job;
    this.#deeds = deeds;
    const button = (/** @type {string} */ text, /** @type {string} */ className, /** @type {() => void} */ click) => make("button", { type: "button", className, on: { click } }, text);
    this.#parts = {
      prompt: make("p", { className: "prompt spoken", dir: "auto" }),
      terms: make("p", { className: "terms" }),
      state: make("p", { className: "state", dir: "auto" }),
      reuse: button("Use again", "reuse", () => deeds.reuse(this.job)),
      retry: button("Retry", "retry", () => deeds.retry(this.job)),
      cancel: button("Cancel", "cancel", () => deeds.cancel(this.job)),
      bar: make("i"),
      tiles: make("ol", { className: "tiles" }),
      more: make("p", { className: "more" }),
    };
    const { prompt, terms, state, reuse, retry, cancel, bar, tiles, more } = this.#parts;
    this.node = make(
      "li",
      { className: "job", tabIndex: -1, data: { job: job.id } },
      make("div", { className: "head" }, make("div", { className: "said" }, prompt, terms), make("div", { className: "what" }, state, make("div", { className: "deeds" }, retry, reuse, cancel))),
      make("div", { className: "bar", aria: { hidden: "true" } }, bar),
      make("div", { className: "sheet" }, tiles, more),
    );
  }

  /** @param {import("../types.js").Step} step */
  step(step) {
    const known = this.steps.get(step.n);
    if (known && known.take === step.take && known.step >= step.step && step.step !== 1) return;
    this.steps.set(step.n, step);
    const item = this.job.items.find((each) => each.n === step.n);
    const tile = /** @type {HTMLElement | null} */ (this.#parts.tiles.querySelector(`[data-key="${step.n}"]`));
    if (!item || !tile || item.status === "ready" || item.status === "failed" || item.status === "cancelled") return;
    item.status = "running"; // as the step says, be it that the job is told later
    this.#pictures.get(tile)?.want(step.url);
    this.#tile(tile, item);
    this.#progress();
  }

  /** @param {Job} job @param {number} age seconds since it was told */
  update(job, age) {
    this.job = job;
    const { node } = this;
    const { prompt, terms, reuse, retry, cancel, tiles, more, state } = this.#parts;
    const ended = job.status !== "processing" && job.status !== "queued";
    mark(node, "status", job.status);
    mark(node, "partial", job.status === "completed" && job.failed ? "" : null);
    node.style.setProperty("--ratio", String(ratio(job)));
    say(prompt, words.prompt(job));
    const engines = ended ? [] : [...new Set(job.items.filter((item) => item.status === "running" && item.engine).map((item) => item.engine))].sort();
    const when = words.hour(ended ? job.completed_at : job.created_at, Date.now());
    say(terms, [words.terms(job), ...engines, ended ? words.money(job.cost) : "", when].filter(Boolean).join(" · "));
    this.tick(age);
    const failed = job.items.some((item) => item.status === "failed" || item.status === "cancelled");
    cancel.hidden = ended;
    retry.hidden = !ended || !failed;
    reuse.hidden = !ended;
    for (const [each, does] of [[cancel, "Cancel"], [retry, "Retry what failed of"], [reuse, "Take into the ask box:"]]) each.setAttribute("aria-label", `${does} ${words.prompt(job)}`);
    node.setAttribute("aria-label", `${words.prompt(job)}: ${state.textContent}`);
    const shown = this.#shown(ended);
    mark(tiles, "few", shown.length < 3 ? "" : null);
    mark(tiles, "many", shown.length > 4 ? "" : null);
    const rest = job.items.length - shown.length;
    more.hidden = rest <= 0;
    say(more, rest > 0 ? `and ${rest} more` : "");
    keep(tiles, shown, (item) => String(item.n), () => this.#make(), (tile, item) => this.#tile(tile, item));
    this.#progress();
  }

  /** Time has passed. @param {number} age seconds since the job was told */
  tick(age) {
    const { job } = this;
    const { state } = this.#parts;
    if (job.status === "processing") say(state, words.left(typeof job.eta_seconds === "number" ? Math.max(0, job.eta_seconds - age) : null));
    else say(state, words.outcome(job));
  }

  /** Which of the pictures have a place: where there are very many, the part that is being drawn. @param {boolean} ended */
  #shown(ended) {
    const { items } = this.job;
    if (ended) return items.slice(0, ROW);
    if (items.length <= SHEET) return items;
    const at = Math.max(0, items.findIndex((item) => item.status === "running" || item.status === "queued"));
    const from = Math.floor(at / SHEET) * SHEET;
    return items.slice(from, from + SHEET);
  }

  #make() {
    const frame = make("span", { className: "frame" });
    const tile = make(
      "li",
      { className: "tile" },
      make("button", { type: "button", className: "open", on: { click: () => this.#press(Number(tile.dataset.key)) } }, frame, make("span", { className: "why" })),
      make("p", { className: "under" }),
    );
    this.#pictures.set(tile, new Picture(frame));
    return tile;
  }

  /** @param {HTMLElement} tile @param {Item} item */
  #tile(tile, item) {
    const { job } = this;
    const step = item.status === "running" ? this.steps.get(item.n) : undefined;
    const stands = words.picture(item, step);
    if (item.status === "queued") this.steps.delete(item.n);
    mark(tile, "status", item.status);
    const failed = item.status === "failed";
    say(/** @type {HTMLElement} */ (tile.querySelector(".why")), failed ? words.why(item.error) : "");
    const under = /** @type {HTMLElement} */ (tile.querySelector(".under"));
    say(under, failed ? "failed · Retry" : stands);
    const place = `Picture ${item.n + 1} of ${job.total}`;
    tile.querySelector("button")?.setAttribute("aria-label", failed ? `${place} failed: ${words.why(item.error)}. Retry` : `${place}, ${stands}`);
    const picture = this.#pictures.get(tile);
    if (item.status === "ready") picture?.want(job.status === "processing" ? finished(item) : small(item));
  }

  #progress() {
    const { job } = this;
    let share = 0;
    for (const item of job.items) {
      const step = this.steps.get(item.n);
      if (item.status === "ready" || item.status === "failed" || item.status === "cancelled") share += 1;
      else if (item.status === "running" && step?.steps) share += step.step / (step.steps + 1);
    }
    const drawn = Math.max(job.items.length ? share / job.items.length : 0, job.progress ?? 0);
    this.#parts.bar.style.transform = `scaleX(${Math.min(1, drawn)})`;
  }

  /** @param {number} n */
  #press(n) {
    const item = this.job.items.find((each) => each.n === n);
    if (item?.status === "failed") this.#deeds.retry(this.job, [n]);
    else this.#deeds.open(this.job, n);
  }
}

/** The cards, each made once for its job. */
export class Cards {
  /** @type {Map<string, Card>} */
  #cards = new Map();
  #deeds;
  #age;

  /** @param {Deeds} deeds @param {(id: string) => number} age seconds since a job was told */
  constructor(deeds, age) {
    this.#deeds = deeds;
    this.#age = age;
  }

  /** @param {string} id */
  get(id) {
    return this.#cards.get(id);
  }

  /** @param {string} list id of an element @param {Job[]} jobs */
  show(list, jobs) {
    keep(
      element(list),
      jobs,
      (job) => job.id,
      (job) => {
        let card = this.#cards.get(job.id);
        if (!card) this.#cards.set(job.id, (card = new Card(job, this.#deeds)));
        return card.node;
      },
      (_, job) => this.#cards.get(job.id)?.update(job, this.#age(job.id)),
    );
  }

  /** Forget those of jobs that are not looked at any more. @param {Set<string>} kept */
  prune(kept) {
    for (const id of this.#cards.keys()) if (!kept.has(id)) this.#cards.delete(id);
  }

  /** Time has passed. @param {Job[]} jobs that are being drawn */
  tick(jobs) {
    for (const { id } of jobs) this.#cards.get(id)?.tick(this.#age(id));
  }
}
