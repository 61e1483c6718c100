// @ts-check
/**
 * The line to the Studio. What is asked goes over HTTP, what happens comes over a socket: what happened while the line
 * was lost is told when it is back, each thing once.
 */

import { here, socket } from "../shared/address.js";
import { Link } from "../shared/socket.js";

const PROTOCOL = 1;
/** Milliseconds after which nobody answers any more. */
const PATIENCE = 20_000;

/** Why something was not done. */
export class Refusal extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {import("./types.js").Problem[]} [problems] all that is wrong, where that is told by field
   */
  constructor(code, message, problems) {
    super(message);
    this.code = code;
    /** @type {import("./types.js").Problem[]} */
    this.problems = problems ?? [];
  }
}

/**
 * @typedef {object} Hooks
 * @property {() => string | null} token
 * @property {() => void} welcomed the line is there: what is shown may be old
 * @property {() => void} reset so much has happened that it is not told one by one
 * @property {(happening: import("./types.js").Happening) => void} happened
 * @property {(step: import("./types.js").Step) => void} step
 * @property {(queue: import("./types.js").Queue) => void} queue
 * @property {() => void} changed the line came, or was lost
 * @property {() => void} refused a token is needed, or another one
 */

export class StudioConnection {
  /** @type {import("./types.js").Member | null} */
  member = null;
  /** @type {"connecting" | "connected" | "lost" | "refused"} */
  line = "connecting";
  /** Why nobody is let in over the socket, where the Studio says so: a browser hides that. */
  why = "";
  /** The id of the last event that was heard. @type {number | null} */
  #last = null;
  #hooks;
  #link;

  /** @param {Hooks} hooks */
  constructor(hooks) {
    this.#hooks = hooks;
    this.#link = new Link(socket("/ws/studio"), {
      open: () => {
        const token = hooks.token();
        this.#link.send({ type: "hello", protocol: PROTOCOL, ...(token ? { token } : {}), ...(this.#last === null ? {} : { after: this.#last }) }, { answered: true });
      },
      message: (data) => typeof data === "string" && this.#take(data),
      lost: () => this.#lost(),
    });
    for (const event of ["online", "pageshow", "focus"]) addEventListener(event, () => this.line !== "refused" && this.#link.nudge());
  }

  connect() {
    this.line = "connecting";
    this.#link.connect();
    // A line that never was is lost, too.
    setTimeout(() => this.line === "connecting" && this.#lost(), 2500);
  }

  /**
   * Ask for something over HTTP.
   * @param {"GET" | "POST" | "DELETE"} method
   * @param {string} path
   * @param {object | null} [body]
   * @param {Record<string, string>} [headers]
   * @returns {Promise<any>}
   */
  async ask(method, path, body = null, headers = {}) {
    const token = this.#hooks.token();
    let answer;
    try {
      answer = await fetch(here(path), {
        method,
        body: body ? JSON.stringify(body) : null,
        signal: AbortSignal.timeout(PATIENCE),
        headers: { ...(body ? { "content-type": "application/json" } : {}), ...(token ? { authorization: `Bearer ${token}` } : {}), ...headers },
      });
    } catch {
      throw new Refusal("offline", "the Studio does not answer: look whether it was done before you try again");
    }
    /** @type {any} */
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) return told;
    const error = told.error ?? { code: "internal", message: `the Studio answered ${answer.status}` };
    if (answer.status === 401) this.#refuse();
    throw new Refusal(error.code, error.message, error.problems ?? (error.field ? [error] : []));
  }

  /**
   * Ask whether the Studio is still there: a line that is dead says nothing, and is given up where no answer comes. Where
   * there is none, ask over HTTP why.
   */
  async pulse() {
    if (this.line === "connected") this.#link.send({ type: "sync", t0: performance.now() / 1000 }, { answered: true });
    if (this.line !== "lost") return;
    try {
      await this.ask("GET", "/api/me");
      this.why = "";
    } catch (problem) {
      const { code, message } = /** @type {Refusal} */ (problem);
      this.why = code === "forbidden" ? message : "";
    }
    this.#hooks.changed();
  }

  #refuse() {
    if (this.line === "refused") return;
    this.line = "refused";
    this.member = null;
    this.#link.stop();
    this.#hooks.changed();
    this.#hooks.refused();
  }

  /** @param {string} data */
  #take(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    switch (message.type) {
      case "welcome":
        this.member = message.member;
        this.line = "connected";
        this.why = "";
        if (this.#last === null || message.last_event < this.#last) this.#last = message.last_event; // another database than before
        this.#hooks.changed();
        return this.#hooks.welcomed();
      case "reset":
        this.#last = message.last_event ?? this.#last;
        return this.#hooks.reset();
      case "event":
        if (this.#last !== null && message.id <= this.#last) return;
        this.#last = message.id;
        return this.#hooks.happened(message);
      case "step":
        return this.#hooks.step(message);
      case "queue":
        return this.#hooks.queue(message);
      case "error":
        if (message.code === "unauthorized") this.#refuse();
        else this.why = message.message; // it is said once the line is lost, as it will be
    }
  }

  #lost() {
    if (this.line === "refused") return;
    this.line = "lost";
    this.#hooks.changed();
  }
}
