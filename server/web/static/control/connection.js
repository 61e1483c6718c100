// @ts-check
/**
 * The line to the server, and what came over it: the state that was last told, and commands with their replies.
 * Nothing here is believed before the server has said it.
 */

import { socket } from "../shared/address.js";
import { Clock, Sync } from "../shared/clock.js";
import { Link } from "../shared/socket.js";

const PROTOCOL = 1;
/** Seconds a command is worth anything: a GO that comes late is worse than none. */
const TTL = 3;
/** Seconds after which nobody answers any more. */
const PATIENCE = 6;
/** Seconds without a word after which what is shown is no longer called true. */
export const STALE = 4.5;
/**
 * Seconds without a state, though the line is open, after which what is shown is no longer called true, and a new line
 * is taken. The server tells the state every few seconds even where nothing has changed.
 */
export const STATE_STALE = 10;

/** @typedef {{code: string, message: string}} Problem */

export class ServerConnection {
  clock = new Clock();
  /** As it was last told; nothing is shown before. @type {import("./types.js").State} */
  state = /** @type {any} */ (null);
  /** @type {"viewer" | "operator" | null} */
  role = null;
  /** @type {Set<string>} */
  commands = new Set();
  /** @type {Problem | null} why the server does not let us in */
  refused = null;
  /** Local seconds at which it was last heard. */
  heardAt = -Infinity;
  /** Local seconds at which the state was last told, */
  statedAt = -Infinity;
  /** and the time of day that it was here, in Unix seconds. @type {number | null} */
  statedWall = null;
  #openedAt = -Infinity;
  #epoch = "";
  #seq = 0;
  #count = 0;
  #session = Math.random().toString(36).slice(2, 10);
  /** @type {Map<string, {resolve: (result: any) => void, reject: (problem: Problem) => void, timer: number}>} */
  #open = new Map();
  #link;
  #sync;
  #hooks;

  /**
   * @param {{hello: () => {token: string | null, name: string}, changed: () => void, restarted: () => void, refused: () => void}} hooks
   */
  constructor(hooks) {
    this.#hooks = hooks;
    this.#link = new Link(socket("/ws/control"), {
      open: () => {
        const { token, name } = hooks.hello();
        this.#link.send({ type: "hello", protocol: PROTOCOL, name, ...(token ? { token } : {}) }, { answered: true });
      },
      message: (data) => typeof data === "string" && this.#take(data),
      lost: () => this.#lost(),
    });
    this.#sync = new Sync(this.clock, (t0) => this.#link.send({ type: "sync", t0 }, { answered: true }));
    for (const event of ["online", "pageshow", "focus"]) addEventListener(event, () => this.#link.nudge());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#link.nudge());
    setInterval(() => this.#distrust(), 1000);
  }

  connect() {
    this.refused = null;
    this.#link.connect();
  }

  /** Whether what is shown is what the server says now. */
  get fresh() {
    return this.heard && this.clock.local() - this.statedAt < STATE_STALE;
  }

  /** Whether the server is heard, be it that the state stands still. */
  get heard() {
    return this.role !== null && this.clock.local() - this.heardAt < STALE;
  }

  /** A line over which no state comes is no line: whoever sends them on the other side is gone. */
  #distrust() {
    if (!this.heard || this.clock.local() - Math.max(this.statedAt, this.#openedAt) < STATE_STALE) return;
    this.#link.renew();
  }

  /** @param {string} command */
  may(command) {
    return this.fresh && this.commands.has(command);
  }

  /** Steady time of the server. */
  now() {
    return this.clock.now();
  }

  /** Seconds from the start of the screening, running on as fast as it is played; null where none is on. */
  position() {
    const { state } = this;
    if (!state || state.position === null) return null;
    return state.screening.paused ? state.position : state.position + Math.max(0, this.now() - state.server_time) * state.speed;
  }

  /**
   * Ask for something; resolves with the server's result, rejects with its reason.
   * @param {string} command
   * @param {Record<string, any>} [args]
   * @returns {Promise<any>}
   */
  ask(command, args = {}) {
    const id = `${this.#session}-${(this.#count += 1)}`;
    return new Promise((resolve, reject) => {
      const message = { type: "command", id, command, args, ttl: TTL, sent_at: this.now() };
      if (!this.#link.send(message, { answered: true })) {
        reject({ code: "offline", message: "not connected to the server: nothing was done" });
        return;
      }
      const timer = setTimeout(() => {
        this.#open.delete(id);
        reject({ code: "no_answer", message: "no answer: look at the state before you try again" });
      }, PATIENCE * 1000);
      this.#open.set(id, { resolve, reject, timer });
    });
  }

  /** @param {string} data */
  #take(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    this.heardAt = this.clock.local();
    switch (message.type) {
      case "sync":
        return this.#sync.answered(message);
      case "welcome":
        this.role = message.role;
        this.#openedAt = this.clock.local();
        this.commands = new Set(message.commands ?? []);
        this.clock.anchor(message.server_time);
        this.#sync.start();
        if (message.epoch !== this.#epoch) {
          this.#epoch = message.epoch;
          this.#seq = -1;
          this.#hooks.restarted();
        }
        return this.#hooks.changed();
      case "state":
        if (message.epoch !== this.#epoch || message.seq < this.#seq) return;
        this.#seq = message.seq;
        this.state = message.state;
        this.statedAt = this.clock.local();
        this.statedWall = message.state.zone ? message.state.server_time + message.state.zone.clock_offset : Date.now() / 1000;
        return this.#hooks.changed();
      case "reply": {
        const open = this.#open.get(String(message.id));
        if (!open) return;
        this.#open.delete(String(message.id));
        clearTimeout(open.timer);
        if (message.ok) open.resolve(message.result);
        else open.reject(message.error);
        return;
      }
      case "error":
        if (message.code !== "unauthorized") return void console.warn(`${message.code}: ${message.message}`);
        this.refused = message;
        this.#link.stop();
        this.#lost();
        return this.#hooks.refused();
    }
  }

  #lost() {
    this.role = null;
    this.#sync.stop();
    for (const { reject, timer } of this.#open.values()) {
      clearTimeout(timer);
      reject({ code: "lost", message: "the line was lost before an answer: look at the state before you try again" });
    }
    this.#open.clear();
    this.#hooks.changed();
  }
}
