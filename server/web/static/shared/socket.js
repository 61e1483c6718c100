// @ts-check
/**
 * The line to the server: one socket at a time, for ever.
 *
 * A line that is lost changes nothing on the wall. It is tried again after 0.25 s, then ever longer up to 5 s, never
 * quite regularly, so that a room of screens does not knock in step. A line that looks open and is dead (a
 * switch that lost its power says no goodbye) is found by a question left unanswered.
 */

const FIRST_DELAY = 0.25;
const LONGEST_DELAY = 5;
/** A connection that has lasted so long was a good one: the next loss starts from the first delay. */
const GOOD = 5;
/** Seconds to open a connection. */
const OPENING = 5;
/** Seconds without a word after a question before the line is given up. */
const PATIENCE = 4;
/** Where even large frames on a thin line fill that time, patience grows up to this. */
const MOST_PATIENCE = 20;

/**
 * @typedef {object} Hooks
 * @property {() => void} open the socket is open: say hello
 * @property {(data: string | ArrayBuffer) => void} message
 * @property {() => void} lost
 */

export class Link {
  #url;
  #hooks;
  /** @type {WebSocket | null} */
  #socket = null;
  #retry = 0;
  #opening = 0;
  #silence = 0;
  #attempts = 0;
  #patience = PATIENCE;
  #openedAt = 0;
  #counts = { connects: 0, losses: 0, silences: 0 };

  /**
   * @param {string} url
   * @param {Hooks} hooks
   */
  constructor(url, hooks) {
    this.#url = url;
    this.#hooks = hooks;
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.#retry);
    this.#abandon();
    let socket;
    try {
      socket = new WebSocket(this.#url);
    } catch {
      this.#later();
      return;
    }
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#opening = setTimeout(() => this.#lost(), OPENING * 1000);
    socket.onopen = () => {
      clearTimeout(this.#opening);
      this.#openedAt = performance.now();
      this.#counts.connects += 1;
      this.#hooks.open();
      this.#expect(this.#patience);
    };
    socket.onmessage = (event) => {
      clearTimeout(this.#silence);
      this.#silence = 0;
      this.#hooks.message(event.data);
    };
    socket.onclose = () => this.#lost();
  }

  /**
   * @param {object} message
   * @param {{answered?: boolean}} [options] answered: the server will reply, and is dead if it does not
   * @returns {boolean} whether it went out
   */
  send(message, { answered = false } = {}) {
    if (!this.open) return false;
    /** @type {WebSocket} */ (this.#socket).send(JSON.stringify(message));
    if (answered) this.#expect(this.#patience);
    return true;
  }

  /** Something happened (the network is back, the machine woke): do not wait for the timers. */
  nudge() {
    if (this.#socket?.readyState === WebSocket.CONNECTING) return;
    if (this.open) this.#expect(2.5);
    else this.connect();
  }

  /** Close the line and take a new one, soon. */
  renew() {
    this.#lost();
  }

  /** Have no line until `connect` is called again. */
  stop() {
    clearTimeout(this.#retry);
    this.#openedAt = 0;
    this.#abandon();
  }

  stats() {
    return { open: this.open, attempts: this.#attempts, ...this.#counts };
  }

  /** @param {number} seconds */
  #expect(seconds) {
    if (this.#silence) return;
    this.#silence = setTimeout(() => {
      this.#counts.silences += 1;
      this.#patience = Math.min(MOST_PATIENCE, this.#patience * 1.5);
      this.#lost();
    }, seconds * 1000);
  }

  #lost() {
    const lasted = this.#openedAt ? (performance.now() - this.#openedAt) / 1000 : 0;
    const was = this.#openedAt > 0;
    this.#openedAt = 0;
    this.#abandon();
    if (lasted > GOOD) this.#attempts = 0;
    if (lasted > 60) this.#patience = PATIENCE;
    if (was) {
      this.#counts.losses += 1;
      this.#hooks.lost();
    }
    this.#later();
  }

  #later() {
    clearTimeout(this.#retry);
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#attempts) * (0.5 + Math.random() / 2);
    this.#attempts = Math.min(this.#attempts + 1, 10);
    this.#retry = setTimeout(() => this.connect(), delay * 1000);
  }

  /** Have nothing more to do with the present socket; a dead one would take minutes to close properly. */
  #abandon() {
    clearTimeout(this.#opening);
    clearTimeout(this.#silence);
    this.#silence = 0;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
