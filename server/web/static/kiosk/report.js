// @ts-check
/** Tells the server's log what goes wrong here, sparingly: a fault that repeats must not become a flood. */

/** Messages a minute. */
const ALLOWANCE = 12;
const LONGEST = 1500;

export class Report {
  #send;
  #left = ALLOWANCE;
  #swallowed = 0;
  #last = "";

  /** @param {(message: {type: "log", level: string, message: string}) => void} send */
  constructor(send) {
    this.#send = send;
    setInterval(() => {
      const swallowed = this.#swallowed;
      this.#left = ALLOWANCE;
      this.#swallowed = 0;
      this.#last = "";
      if (swallowed > 0) this.say("warning", `${swallowed} further messages were left out`);
    }, 60_000);
  }

  /**
   * @param {"debug" | "info" | "warning" | "error"} level
   * @param {string} message
   */
  say(level, message) {
    console[level === "warning" ? "warn" : level](message);
    if (this.#left <= 0 || message === this.#last) {
      this.#swallowed += 1;
      return;
    }
    this.#left -= 1;
    this.#last = message;
    this.#send({ type: "log", level, message: message.slice(0, LONGEST) });
  }

  /** Also what nobody caught. */
  listen() {
    addEventListener("error", (event) => {
      const where = event.filename ? ` (${event.filename}:${event.lineno})` : "";
      this.say("error", `${event.message}${where}`);
      event.preventDefault();
    });
    addEventListener("unhandledrejection", (event) => {
      this.say("error", `unhandled: ${event.reason?.stack ?? event.reason}`);
      event.preventDefault();
    });
  }
}
