// @ts-check
/**
 * Timers on the server's clock. They look at it again and again while they wait, so a corrected clock or a
 * machine that slept does not leave them behind.
 */

/** Longest time, in seconds, that a timer sleeps before it looks at the clock again. */
const LOOK = 1;

export class Schedule {
  #clock;

  /** @param {import("../shared/clock.js").Clock} clock */
  constructor(clock) {
    this.#clock = clock;
  }

  /** Server time. */
  now() {
    return this.#clock.now();
  }

  /**
   * Call `fn` at a moment, at once if it is past.
   * @param {number} when server time
   * @param {() => void} fn
   * @returns {() => void} calls it off
   */
  at(when, fn) {
    const wait = when - this.now();
    if (wait <= 0.001) {
      fn();
      return () => {};
    }
    let timer = 0;
    const look = () => {
      const left = when - this.now();
      if (left <= 0.001) fn();
      else timer = setTimeout(look, Math.min(left, LOOK) * 1000);
    };
    look();
    return () => clearTimeout(timer);
  }
}

/** Does one thing at a time at set moments: setting it anew calls off what was set before. */
export class Alarm {
  #schedule;
  #off = () => {};

  /** @param {Schedule} schedule */
  constructor(schedule) {
    this.#schedule = schedule;
  }

  /**
   * @param {number} when
   * @param {() => void} fn
   */
  set(when, fn) {
    this.#off();
    this.#off = () => {};
    this.#off = this.#schedule.at(when, fn);
  }

  clear() {
    this.#off();
    this.#off = () => {};
  }
}
