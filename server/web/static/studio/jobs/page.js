// @ts-check
/** The Jobs page: what was asked for, from anywhere, and what became of it. */

import { element, make, keep, mark, say } from "../../shared/dom.js";
import * as words from "../words.js";
import { Ask } from "./ask.js";
import { Book, WAITING } from "./book.js";
import { Cards } from "./card.js";
import * as figures from "./figures.js";
import { Viewer } from "./viewer.js";
import { asked, Waiting } from "./waiting.js";

/** Milliseconds between two looks at the figures of the day. */
const FIGURES = 15_000;
/** Milliseconds after which they are looked at where a job has ended. */
const SOON = 2000;
/** Milliseconds between two looks at what is being drawn, for how long it will still be. */
const ETA = 5000;

/** @typedef {import("../types.js").Job} Job */

export class JobsPage {
  /** @type {import("../types.js").Queue | null} */
  #queue = null;
  #connection;
  #tell;
  #changed;
  #book;
  #cards;
  #waiting;
  #viewer;
  #ask;
  #figuresAt = -Infinity;
  #etaAt = 0;

  /**
   * @param {import("../connection.js").StudioConnection} connection
   * @param {{tell: (text: string, how: "ok" | "no") => void, changed: () => void, kept: import("./ask.js").Kept}} around
   */
  constructor(connection, { tell, changed, kept }) {
    this.#connection = connection;
    this.#tell = tell;
    this.#changed = changed;
    this.#book = new Book(connection, () => this.show());
    const deeds = {
      cancel: (/** @type {Job} */ job) => this.#cancel(job),
      retry: (/** @type {Job} */ job, /** @type {number[] | undefined} */ items) => this.#retry(job, items),
      reuse: (/** @type {Job} */ job) => this.#ask.reuse(job),
      open: (/** @type {Job} */ job, /** @type {number} */ n) => this.#viewer.open(job, n),
    };
    this.#cards = new Cards(deeds, (id) => this.#book.age(id));
    this.#waiting = new Waiting({
      cancel: deeds.cancel,
      move: (job, move) => this.#move(job, move),
      get: (id) => this.#book.get(id),
    });
    this.#viewer = new Viewer({ get: (id) => this.#book.get(id), step: (id, n) => this.#cards.get(id)?.steps.get(n) });
    this.#ask = new Ask(connection, { tell, kept, asked: (job) => this.#asked(job) });
    element("pause").addEventListener("click", () => this.#pause());
    element("resume").addEventListener("click", () => this.#pause());
    element("older").addEventListener("click", () => this.#turn(1));
    element("newer").addEventListener("click", () => this.#turn(-1));
    setInterval(() => this.#tick(), 1000);
  }

  get queue() {
    return this.#queue;
  }

  /** Every key of this page. @returns {import("../keys.js").Key[]} */
  get keys() {
    return [
      { key: "n", shown: "n", does: "Write a prompt", act: () => element("ask-prompt").focus() },
      { key: "control+enter", shown: "Ctrl Enter", does: "Draw it", typing: true, act: () => void this.#ask.send() },
      { key: "escape", shown: "Esc", does: "Leave the field; close what is open", typing: true, act: (event) => /** @type {HTMLElement} */ (event.target).blur() },
      { key: "p", shown: "p", does: "Pause the queue, or let it go on", act: () => this.#pause() },
      { key: "arrowdown arrowup", shown: "↓ ↑", does: "Next job, job before", act: (event) => this.#walk(event.key === "ArrowDown" ? 1 : -1) },
      { key: "enter", shown: "Enter", does: "Open the first picture of the job", act: (event) => this.#open(event) },
      { key: "arrowleft arrowright", shown: "← →", does: "Next picture, picture before, where one is large", act: () => false },
      { key: "x", shown: "x", does: "Cancel the job", act: () => this.#here((job) => this.#cancel(job)) },
      { key: "r", shown: "r", does: "Retry what failed of the job", act: () => this.#here((job) => this.#retry(job)) },
      { key: "e", shown: "e", does: "Take the job’s words into the ask box", act: () => this.#here((job) => this.#ask.reuse(job)) },
      { key: "shift+arrowup shift+arrowdown", shown: "⇧↑ ⇧↓", does: "Move the waiting job up, down", act: (event) => this.#here((job) => this.#move(job, { to: event.key === "ArrowUp" ? "up" : "down" })) },
      { key: "shift+home shift+end", shown: "⇧Home ⇧End", does: "Move the waiting job first, last", act: (event) => this.#here((job) => this.#move(job, { to: event.key === "Home" ? "first" : "last" })) },
      { key: "o i", shown: "o i", does: "Older jobs, newer jobs", act: (event) => this.#turn(event.key === "o" ? 1 : -1) },
    ];
  }

  // --------------------------------------------------------------- what is told

  /** The line is there: ask for everything anew. */
  async welcomed() {
    this.#book.refresh();
    this.#figuresAt = -Infinity;
    await Promise.all([this.#ask.offer(), this.#askQueue()]);
    this.show(); // the sizes of the pictures are known now
    this.#tick();
  }

  reset() {
    this.#book.refresh();
    void this.#askQueue();
  }

  /** @param {import("../types.js").Happening} happening */
  happened(happening) {
    this.#book.happened(happening);
    if (happening.event.startsWith("job.")) void this.#askQueue();
    if (happening.event === "job.completed" || happening.event === "job.failed") {
      this.#figuresAt = Math.min(this.#figuresAt, performance.now() - FIGURES + SOON);
      this.#ask.reckon();
    }
  }

  /** @param {import("../types.js").Step} step */
  step(step) {
    this.#cards.get(step.job)?.step(step);
    this.#viewer.update();
  }

  /** @param {Partial<import("../types.js").Queue>} queue as far as it is told */
  told(queue) {
    this.#queue = { paused: null, slots: [], waiting: 0, running: 0, ...this.#queue, ...queue };
    if (queue.waiting === undefined) void this.#askQueue();
    this.#book.touch("waiting");
    this.show();
  }

  #asking = false;
  #again = false;

  /** How the queue stands; however often that is wanted, it is asked for once at a time. */
  async #askQueue() {
    this.#again = true;
    if (this.#asking) return;
    this.#asking = true;
    try {
      while (this.#again) {
        this.#again = false;
        this.#queue = await this.#connection.ask("GET", "/api/queue");
        this.show();
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    } catch {
      // told by the line
    } finally {
      this.#asking = false;
    }
  }

  // --------------------------------------------------------------- what is shown

  show() {
    const { running, waiting, done, page, known } = this.#book;
    const queue = this.#queue;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    this.#cards.show("running", running);
    // How many wait altogether is told a moment later than who: it is asked only where not all of them are here.
    const all = waiting.length < WAITING ? waiting.length : Math.max(waiting.length, queue?.waiting ?? 0);
    this.#waiting.show(waiting, all, (id) => this.#book.age(id));
    this.#cards.show("done", done);
    this.#cards.prune(new Set([...running, ...done].map((job) => job.id)));
    // What was put elsewhere with its job keeps the focus.
    if (focused?.closest("[data-job]") && document.activeElement === document.body) focused.focus({ preventScroll: true });
    this.#rove();
    element("running-count").textContent = running.length ? String(running.length) : "";
    element("waiting-count").textContent = all ? all.toLocaleString("en-GB") : "";
    say(element("running-none"), !known ? "Looking …" : running.length ? "" : queue?.paused ? "Nothing is drawn while the queue is paused." : waiting.length ? "Nothing is being drawn just now." : "Nothing is being drawn. Write what you would like to see.");
    say(element("waiting-none"), known && !waiting.length ? "Nothing waits." : "");
    say(element("done-none"), known && !done.length ? "What is done will lie here." : "");
    say(element("done-page"), page.number > 1 ? `page ${page.number}` : "");
    element("older").disabled = !page.more;
    element("newer").disabled = page.number === 1;
    element("pages").hidden = !page.more && page.number === 1;
    const paused = queue?.paused ?? null;
    element("paused").hidden = !paused;
    if (paused) say(element("paused-why"), words.paused(paused));
    const may = this.#connection.member?.role === "artist";
    element("pause").hidden = !may || Boolean(paused);
    element("resume").hidden = !may;
    keep(
      element("slots"),
      queue?.slots ?? [],
      (slot) => slot.engine,
      (slot) => make("li", {}, make("span", { className: "lamp", aria: { hidden: "true" } }), make("b", {}, slot.engine), make("span", { className: "does", dir: "auto" })),
      (row, slot) => {
        mark(row, "state", slot.rests ? "rests" : slot.working_on ? "draws" : "free");
        say(row.querySelector(".does"), words.slot(slot));
      },
    );
    this.#viewer.update();
    this.#changed();
  }

  #tick() {
    this.#cards.tick(this.#book.running);
    if (this.#connection.line !== "connected" || document.visibilityState !== "visible") return;
    const now = performance.now();
    if (now - this.#etaAt > ETA && (this.#book.running.length || this.#book.waiting.length || this.#queue?.running || this.#queue?.waiting)) {
      this.#etaAt = now;
      this.#book.touch("running", "waiting");
      void this.#askQueue();
    }
    if (now - this.#figuresAt > FIGURES) {
      this.#figuresAt = now;
      const artist = this.#connection.member?.role === "artist";
      element("figures").hidden = !artist;
      if (artist) this.#connection.ask("GET", "/api/stats?hours=24").then(figures.show, () => {});
    }
  }

  // --------------------------------------------------------------- what is done

  /** @param {Job} job */
  #asked(job) {
    this.#book.take(job);
    this.#book.did("running", "waiting");
  }

  /**
   * Do something, and tell what became of it.
   * @param {string} what
   * @param {() => Promise<any>} deed
   * @param {string} [did]
   */
  async #do(what, deed, did) {
    try {
      const told = await deed();
      if (did) this.#tell(did, "ok");
      return told;
    } catch (problem) {
      const { code, message } = /** @type {import("../connection.js").Refusal} */ (problem);
      if (code !== "unauthorized") this.#tell(`${what}: ${message}`, "no");
      return null;
    }
  }

  /** @param {Job} job */
  async #cancel(job) {
    if (job.status !== "queued" && job.status !== "processing") return this.#tell("That job is over already", "no");
    const told = await this.#do("Not cancelled", () => this.#connection.ask("DELETE", `/api/jobs/${job.id}`), `Cancelled: ${words.prompt(job)}`);
    if (told?.id) this.#book.take(told);
    if (told) this.#book.did("running", "waiting", "done");
  }

  /** @param {Job} job @param {number[]} [items] */
  async #retry(job, items) {
    if (!job.items.some((item) => item.status === "failed" || item.status === "cancelled")) return this.#tell("Nothing of that job has failed", "no");
    const told = await this.#do("Not tried again", () => this.#connection.ask("POST", `/api/jobs/${job.id}/retry`, items ? { items } : {}), "It is drawn once more, with the same seeds");
    if (told?.id) this.#book.take(told);
    if (told) this.#book.did("running", "waiting", "done");
  }

  /** @param {Job} job @param {import("./waiting.js").Move} move */
  async #move(job, move) {
    if (job.status !== "queued") return this.#tell("Only what waits can be moved", "no");
    const { waiting } = this.#book;
    const body = asked(waiting, job, move, waiting.length < WAITING);
    if (!body) return;
    this.#book.place(job, body);
    if (!(await this.#do("Not moved", () => this.#connection.ask("POST", `/api/jobs/${job.id}/move`, body)))) this.#book.unplace();
  }

  async #pause() {
    const paused = Boolean(this.#queue?.paused);
    const told = await this.#do(paused ? "Not resumed" : "Not paused", () => this.#connection.ask("POST", `/api/queue/${paused ? "resume" : "pause"}`, {}), paused ? "The queue goes on" : "Paused: nothing new is begun");
    if (told) void this.#askQueue();
  }

  /** @param {1 | -1} by */
  async #turn(by) {
    if (await this.#do("Not turned", () => this.#book.turn(by))) element("done-title").scrollIntoView({ block: "start" });
  }

  // --------------------------------------------------------------- where the keys are

  /** All that can be walked through, from the top. @returns {HTMLElement[]} */
  #all() {
    return /** @type {HTMLElement[]} */ ([...document.querySelectorAll("#running > li, #waiting > li, #done > li")]);
  }

  /** The job that has the focus, or holds what has it. */
  #focused() {
    return /** @type {HTMLElement | null} */ (document.activeElement?.closest("[data-job]") ?? null);
  }

  /** One of them is reached by tab, and the others from there. */
  #rove() {
    const all = this.#all();
    const chosen = this.#focused() ?? all.find((each) => each.tabIndex === 0) ?? all[0];
    for (const each of all) each.tabIndex = each === chosen ? 0 : -1;
  }

  /** @param {1 | -1} by */
  #walk(by) {
    const all = this.#all();
    const at = this.#focused();
    const next = at ? all[all.indexOf(at) + by] : all[0];
    if (!next) return;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    this.#rove();
  }

  /** @param {(job: Job) => void} deed */
  #here(deed) {
    const id = this.#focused()?.dataset.job;
    const job = id ? this.#book.get(id) : undefined;
    if (job) deed(job);
    else this.#tell("Choose a job first, with ↓ and ↑", "no");
  }

  /** @param {KeyboardEvent} event */
  #open(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const job = target.matches("[data-job]") ? this.#book.get(target.dataset.job ?? "") : undefined;
    const first = job?.items.find((item) => item.status === "ready") ?? job?.items[0];
    if (!job || !first) return false; // a button that means itself
    this.#viewer.open(job, first.n);
  }
}
