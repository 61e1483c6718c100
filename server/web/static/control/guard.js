// @ts-check
/**
 * A button that a slip does not press: it wants to be held, or pressed twice. Held, a line fills; pressed once, it asks
 * to be pressed again, for a while. The second way is for those who cannot hold: a screen reader presses by clicks.
 */

import { mark, say } from "../shared/dom.js";

/** Seconds to hold. */
export const HOLD = 0.8;
/** Seconds in which the second press counts. */
const ARMED = 4;
/** Seconds in which a second press is still the first slip: a double click. */
const SLIP = 0.4;

export class Guard {
  #button;
  #hint;
  #resting;
  #act;
  #timer = 0;
  #armed = 0;
  #armedAt = 0;
  #held = false;

  /**
   * @param {HTMLButtonElement} button
   * @param {HTMLElement} hint
   * @param {() => void} act
   */
  constructor(button, hint, act) {
    this.#button = button;
    this.#hint = hint;
    this.#resting = hint.textContent ?? "";
    this.#act = act;
    button.style.setProperty("--hold", `${HOLD}s`);
    button.addEventListener("pointerdown", (event) => event.button === 0 && this.press());
    for (const event of ["pointerup", "pointercancel", "pointerleave", "blur"]) button.addEventListener(event, () => this.release());
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("click", () => this.#clicked());
  }

  /** It is pressed, by a finger or by a key. */
  press() {
    if (this.#button.disabled || this.#timer) return;
    this.#held = false;
    mark(this.#button, "holding", "");
    this.#timer = setTimeout(() => {
      this.#held = true;
      this.#done();
    }, HOLD * 1000);
  }

  release() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    mark(this.#button, "holding", null);
  }

  #clicked() {
    this.release();
    if (this.#held) {
      this.#held = false; // the end of the press that has done it
      return;
    }
    if (this.#armed) {
      if (performance.now() - this.#armedAt > SLIP * 1000) this.#done();
      return;
    }
    this.#armedAt = performance.now();
    mark(this.#button, "armed", "");
    say(this.#hint, "press again");
    this.#armed = setTimeout(() => this.#rest(), ARMED * 1000);
  }

  #rest() {
    clearTimeout(this.#armed);
    this.#armed = 0;
    mark(this.#button, "armed", null);
    say(this.#hint, this.#resting);
  }

  #done() {
    this.release();
    this.#rest();
    this.#act();
  }
}
