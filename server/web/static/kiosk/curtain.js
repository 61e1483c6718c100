// @ts-check
/** Black over everything, and back. */

import { Alarm } from "./alarm.js";

/** @typedef {import("./messages.js").Fade} Fade */

const EASING = "cubic-bezier(0.45, 0.05, 0.4, 1)";

export class Curtain {
  #root;
  #clock;
  #alarm;
  /** @type {Fade | null} */
  #fade = null;
  /** @type {Animation | null} */
  #motion = null;

  /**
   * @param {HTMLElement} root
   * @param {import("../shared/clock.js").Clock} clock
   */
  constructor(root, clock) {
    this.#root = root;
    this.#clock = clock;
    this.#alarm = new Alarm(clock);
  }

  /** @param {Fade} fade */
  take(fade) {
    const before = this.#fade;
    if (before && before.black === fade.black && before.at === fade.at) return;
    this.#fade = fade;
    this.#alarm.set(fade.at, () => this.#begin(fade, before === null));
  }

  /** @param {number} seconds */
  open(seconds) {
    if (this.#fade?.black) this.take({ type: "fade", black: false, seconds, at: this.#clock.now() });
  }

  /**
   * @param {Fade} fade
   * @param {boolean} joining nothing was known of the curtain before: it stands where it would have if we had been here
   */
  #begin({ black, seconds, at }, joining) {
    const to = black ? 1 : 0;
    const elapsed = Math.max(0, this.#clock.now() - at);
    const shown = Number(getComputedStyle(this.#root).opacity);
    this.#motion?.cancel();
    this.#root.style.opacity = String(to);
    if (elapsed >= seconds) return;
    // From wherever it stands to its end, in the time that is left; a screen that joins takes the whole path's middle.
    const whole = joining || elapsed < 0.25;
    const from = joining ? 1 - to : shown;
    const motion = this.#root.animate([{ opacity: from }, { opacity: to }], {
      duration: (whole ? seconds : seconds - elapsed) * 1000,
      easing: EASING,
    });
    if (whole) motion.currentTime = elapsed * 1000;
    this.#motion = motion;
  }
}
