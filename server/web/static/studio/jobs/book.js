// @ts-check
/**
 * The jobs that are looked at: what is being drawn, the first of what waits, and one page of what is done. However many
 * there are, no more than these are kept. Something happened to a job: it is asked for anew, so that nothing is
 * shown that the Studio has not said.
 */

/** How many of each are shown. */
export const RUNNING = 24;
export const WAITING = 40;
export const PAGE = 40;
/** Milliseconds within which what happens is asked for together. */
const TOGETHER = 120;
/** Milliseconds between two looks at the same list. */
const APART = 700;

/** Milliseconds after which the Studio has counted anew who comes when: it does so once a second. */
const COUNTED = 1300;

/** @typedef {import("../types.js").Job} Job */
/** @typedef {"running" | "waiting" | "done"} ListName */

/** Where each event can change something. @type {Record<string, ListName[]>} */
const TOUCHES = {
  "job.queued": ["waiting", "done"],
  "job.started": ["running", "waiting"],
  "job.completed": ["running", "done"],
  "job.failed": ["running", "waiting", "done"],
  "job.cancelled": ["running", "waiting", "done"],
};

/** @type {Record<ListName, string>} */
const QUERIES = {
  running: `status=processing&limit=${RUNNING}`,
  waiting: `status=queued&sort=queue&limit=${WAITING}`,
  done: `status=completed,failed,cancelled&limit=${PAGE}`,
};
const ENDED = new Set(["completed", "failed", "cancelled"]);

/** When something was, as a number. @param {string | number | null | undefined} at */
const moment = (at) => (typeof at === "number" ? at * 1000 : Date.parse(at ?? "") || 0);

export class Book {
  /** Each job, and how late it was asked for: an answer that was overtaken is not believed. @type {Map<string, {job: Job, asked: number, heard: number}>} */
  #jobs = new Map();
  /** Where the pages before the one that is shown begin; empty on the newest. @type {string[]} */
  #before = [];
  /** Whether there is more behind this page. */
  #more = false;
  /** Ids of an older page; null on the newest. @type {string[] | null} */
  #older = null;
  #asked = 0;
  /** @type {Set<string>} */
  #dirty = new Set();
  /** @type {Set<ListName>} */
  #unlisted = new Set();
  #timer = 0;
  #listedAt = -Infinity;
  #listing = false;
  #placedAt = -Infinity;
  #counting = 0;
  #connection;
  #changed;

  /** Whether anything was ever told. */
  known = false;

  /**
   * @param {import("../connection.js").StudioConnection} connection
   * @param {() => void} changed
   */
  constructor(connection, changed) {
    this.#connection = connection;
    this.#changed = changed;
  }

  /** @param {string} id @returns {Job | undefined} */
  get(id) {
    return this.#jobs.get(id)?.job;
  }

  /** Seconds since a job was told. @param {string} id */
  age(id) {
    return (performance.now() - (this.#jobs.get(id)?.heard ?? performance.now())) / 1000;
  }

  /** What is being drawn, the one that began first. */
  get running() {
    return this.#of((job) => job.status === "processing", (one, other) => moment(one.started_at) - moment(other.started_at)).slice(0, RUNNING);
  }

  /** What waits, in order. */
  get waiting() {
    const place = (/** @type {Job} */ job) => job.position ?? Infinity;
    return this.#of((job) => job.status === "queued", (one, other) => place(one) - place(other) || moment(one.created_at) - moment(other.created_at)).slice(0, WAITING);
  }

  /** What is done, what was asked for last first: a page of it. */
  get done() {
    if (this.#older) return this.#older.map((id) => this.get(id)).filter((job) => job !== undefined).filter((job) => ENDED.has(job.status));
    return this.#of((job) => ENDED.has(job.status), (one, other) => moment(other.created_at) - moment(one.created_at)).slice(0, PAGE);
  }

  /** Which page of what is done is shown, from 1; and whether there is an older one. */
  get page() {
    return { number: this.#before.length + 1, more: this.#more };
  }

  /** Ask for all of it anew. */
  refresh() {
    this.#list(["running", "waiting", "done"]);
  }

  /** Look at a list again, soon. @param {...ListName} lists */
  touch(...lists) {
    this.#list(lists);
  }

  /** Something was done here: look at these lists at once. @param {...ListName} lists */
  did(...lists) {
    this.#listedAt = -Infinity;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#list(lists);
    this.#count();
  }

  /**
   * A job is moved: it is shown there at once. Where it is by the Studio's own count is told a moment later.
   * @param {Job} job @param {{to: "first" | "last"} | {before: string}} move
   */
  place(job, move) {
    const order = this.waiting.filter((each) => each.id !== job.id);
    const places = this.waiting.map((each, index) => each.position ?? index + 1).sort((one, other) => one - other);
    const at = "before" in move ? order.findIndex((each) => each.id === move.before) : move.to === "first" ? 0 : order.length;
    order.splice(at < 0 ? order.length : at, 0, job);
    order.forEach((each, index) => (each.position = places[index] ?? index + 1));
    this.#placedAt = performance.now();
    this.#count();
    this.#changed();
  }

  /** It was not moved after all: the order is the one that the Studio tells. */
  unplace() {
    this.#placedAt = -Infinity;
    this.did("waiting");
  }

  /** @param {import("../types.js").Happening} happening */
  happened({ event, job }) {
    const known = this.get(job);
    if (known && (known.status !== "queued" || event !== "job.queued")) this.#dirty.add(job);
    const lists = TOUCHES[event] ?? [];
    this.#list(lists);
    if (lists.includes("waiting")) this.#count();
  }

  /** What was answered of one job. @param {Job} job */
  take(job) {
    this.#keep(job, (this.#asked += 1));
    this.#changed();
  }

  /** Turn to the older page, or back. @param {1 | -1} by */
  async turn(by) {
    const before = [...this.#before];
    if (by === 1) {
      const last = this.done.at(-1);
      if (!last || !this.#more) return false;
      before.push(last.id);
    } else if (!before.pop()) return false;
    const from = before.at(-1);
    const asked = (this.#asked += 1);
    const told = await this.#connection.ask("GET", `/api/jobs?${QUERIES.done}${from ? `&before=${encodeURIComponent(from)}` : ""}`);
    this.#before = before;
    this.#older = from ? told.jobs.map((/** @type {Job} */ job) => job.id) : null;
    this.#more = told.jobs.length === PAGE;
    for (const job of told.jobs) this.#keep(job, asked);
    this.#prune();
    this.#changed();
    return true;
  }

  /** @param {(job: Job) => boolean} which @param {(one: Job, other: Job) => number} order */
  #of(which, order) {
    return [...this.#jobs.values()].map(({ job }) => job).filter(which).sort(order);
  }

  /** @param {Job} job @param {number} asked */
  #keep(job, asked) {
    const known = this.#jobs.get(job.id);
    if (known && known.asked > asked) return;
    if (known && job.status === "queued" && performance.now() - this.#placedAt < COUNTED) job.position = known.job.position;
    this.#jobs.set(job.id, { job, asked, heard: performance.now() });
  }

  /** Look again when the Studio has counted. */
  #count() {
    clearTimeout(this.#counting);
    this.#counting = setTimeout(() => this.#list(["running", "waiting"]), COUNTED);
  }

  /** @param {ListName[]} lists */
  #list(lists) {
    for (const list of lists) this.#unlisted.add(list);
    if (!this.#timer && !this.#listing) this.#timer = setTimeout(() => this.#look(), this.#dirty.size || performance.now() - this.#listedAt > APART ? TOGETHER : APART);
  }

  async #look() {
    this.#timer = 0;
    this.#listing = true;
    const jobs = [...this.#dirty];
    const due = performance.now() - this.#listedAt > APART;
    const lists = due ? [...this.#unlisted] : [];
    this.#dirty.clear();
    if (due) {
      this.#unlisted.clear();
      if (lists.length) this.#listedAt = performance.now();
    }
    try {
      await Promise.all([...lists.map((list) => this.#read(list)), ...jobs.map((id) => this.#again(id))]);
      if (lists.length) this.known = true;
    } catch {
      // the line is told to be lost, and all is asked for when it is back
    } finally {
      this.#listing = false;
    }
    this.#prune();
    this.#changed();
    if (this.#dirty.size || this.#unlisted.size) this.#list([]);
  }

  /** @param {string} id */
  async #again(id) {
    const asked = (this.#asked += 1);
    try {
      this.#keep(await this.#connection.ask("GET", `/api/jobs/${encodeURIComponent(id)}`), asked);
    } catch (problem) {
      if (/** @type {any} */ (problem).code === "not_found") this.#jobs.delete(id);
    }
  }

  /** @param {ListName} list */
  async #read(list) {
    if (list === "done" && this.#older) return; // an old page stays as it is
    const asked = (this.#asked += 1);
    const { jobs } = await this.#connection.ask("GET", `/api/jobs?${QUERIES[list]}`);
    const told = new Set(jobs.map((/** @type {Job} */ job) => job.id));
    for (const job of jobs) this.#keep(job, asked);
    if (list === "done") this.#more = jobs.length === PAGE;
    // What is in this list no more has gone to another one, or behind its end.
    const status = { running: "processing", waiting: "queued", done: "" }[list];
    for (const [id, { job, asked: at }] of this.#jobs) {
      if (job.status === status && !told.has(id) && at < asked) this.#jobs.delete(id);
    }
  }

  #prune() {
    const kept = new Set([...this.running, ...this.waiting, ...this.done].map((job) => job.id));
    for (const id of this.#jobs.keys()) if (!kept.has(id)) this.#jobs.delete(id);
  }
}
