// @ts-check

/** Longest time, in seconds, that an alarm sleeps before it looks at the clock again. */
const LOOK = 1;

/**
 * Does one thing at a time at set moments: setting it anew calls off what was set before.
 *
 * It looks at the server's clock again and again while it waits, so a corrected clock or a machine that slept does
 * not leave it behind.
 */
export class Alarm {
  #clock;
  #timer = 0;

  /** @param {import("../shared/clock.js").Clock} clock */
  constructor(clock) {
    this.#clock = clock;
  }

  /**
   * Call `fn` at a moment, at once if it is past.
   * @param {number} when server time
   * @param {() => void} fn
   */
  set(when, fn) {
    this.clear();
    const look = () => {
      const left = when - this.#clock.now();
      if (left <= 0.001) fn();
      else this.#timer = setTimeout(look, Math.min(left, LOOK) * 1000);
    };
    look();
  }

  clear() {
    clearTimeout(this.#timer);
  }
}
