// @ts-check
/** How freely the machine may draw: a fine line, a needle and a number. It comes when it is moved and withdraws. */

import { Alarm } from "./alarm.js";

/** @typedef {import("./messages.js").Slider} SliderMessage */

/** Seconds it stays after it has come to rest. */
const STAY = 4.5;

/** Slow, fast, slow: as a hand moves. @param {number} t */
export const ease = (t) => (t < 0.5 ? 4 * t ** 3 : 1 - (-2 * t + 2) ** 3 / 2);

/**
 * Where it stands (pure).
 * @param {SliderMessage} message
 * @param {number} now
 */
export function position({ from, to, seconds, at }, now) {
  const t = seconds > 0 ? Math.min(1, Math.max(0, (now - at) / seconds)) : now >= at ? 1 : 0;
  return Math.min(100, Math.max(0, from + (to - from) * ease(t)));
}

export class Slider {
  #root;
  #clock;
  #display;
  #begin;
  #end;
  /** @type {SliderMessage | null} */
  #message = null;
  #needle = document.createElement("div");
  #value = document.createElement("span");
  #done = document.createElement("div");

  /**
   * @param {HTMLElement} root
   * @param {object} parts
   * @param {import("../shared/clock.js").Clock} parts.clock
   * @param {import("./display.js").Display} parts.display
   */
  constructor(root, { clock, display }) {
    this.#root = root;
    this.#clock = clock;
    this.#display = display;
    this.#begin = new Alarm(clock);
    this.#end = new Alarm(clock);
    this.#needle.className = "needle";
    this.#done.className = "done";
    this.#value.className = "value";
    const track = document.createElement("div");
    track.className = "track";
    this.#needle.append(this.#value);
    track.append(this.#done, this.#needle);
    root.append(track);
  }

  /** @param {SliderMessage} message */
  take(message) {
    const now = this.#message;
    if (now && now.at === message.at && now.to === message.to) return;
    if (this.#clock.now() > message.at + message.seconds + STAY) return;
    this.#message = message;
    this.#begin.set(message.at, () => this.#move(message));
  }

  clear() {
    this.#begin.clear();
    this.#end.clear();
    this.#message = null;
    this.#root.removeAttribute("data-on");
  }

  /** @param {SliderMessage} message */
  #move(message) {
    this.#draw(position(message, this.#clock.now()));
    this.#root.setAttribute("data-on", "");
    this.#end.set(message.at + message.seconds + STAY, () => this.#root.removeAttribute("data-on"));
    this.#display.each((local) => {
      if (this.#message !== message) return false;
      const now = this.#clock.toServer(local) + this.#display.latency;
      this.#draw(position(message, now));
      return now < message.at + message.seconds;
    });
  }

  /** @param {number} value */
  #draw(value) {
    this.#needle.style.transform = `translateX(${value}cqw)`;
    this.#done.style.transform = `scaleX(${value / 100})`;
    const text = `${Math.round(value)}`;
    if (this.#value.textContent !== text) this.#value.textContent = text;
  }
}
