// @ts-check
/**
 * What is asked of the machine, typed as by a hand. Every screen types in the same rhythm: it comes from the message's seed,
 * and where a screen stands in it from the clock alone, so one that joins late has it right at once.
 */

import { Alarm } from "./schedule.js";

/** @typedef {import("./messages.js").Typing} Typing */

/** How long the typed text rests before it is erased, in seconds. */
const REST = 0.6;
/** No key follows another faster than this. */
const FASTEST = 0.012;
/** The caret waits so long after the last key before it goes. */
const CARET = 6;

/**
 * A small seeded generator of numbers in [0, 1) (mulberry32), the same on every machine.
 * @param {number} seed
 */
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * The strokes of a message (pure): after `at` seconds, `count` letters of `text` stand.
 * @param {Typing} message
 * @param {string} standing what stood before
 * @returns {{letters: string[], strokes: {at: number, count: number}[]}}
 */
export function strokes(message, standing) {
  const { base, variance } = message.delay;
  const dice = random(message.seed);
  // Two dice rather than one: hands are mostly near their mean, and within base ± variance all the same.
  const wait = () => Math.max(FASTEST, base + variance * (dice() + dice() - 1));
  const letters = split(message.text || (message.erase ? standing : ""));
  /** @type {{at: number, count: number}[]} */
  const made = [];
  let at = 0;
  if (message.text) {
    for (let count = 1; count <= letters.length; count += 1) made.push({ at: (at += wait()), count });
  }
  if (message.erase) {
    if (message.text) at += REST;
    for (let count = letters.length - 1; count >= 0; count -= 1) made.push({ at: (at += wait()), count });
  }
  return { letters, strokes: made };
}

const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : null;

/** Letters as a reader counts them. @param {string} text */
function split(text) {
  return segmenter ? Array.from(segmenter.segment(text), (s) => s.segment) : Array.from(text);
}

export class TypedLine {
  #root;
  #schedule;
  #alarm;
  #typed = document.createElement("span");
  #caret = document.createElement("span");
  #rest = document.createElement("span");
  /** @type {Typing | null} */
  #message = null;
  /** @type {string[]} */
  #letters = [];
  #count = 0;

  /**
   * @param {HTMLElement} root
   * @param {import("./schedule.js").Schedule} schedule
   */
  constructor(root, schedule) {
    this.#root = root;
    this.#schedule = schedule;
    this.#alarm = new Alarm(schedule);
    this.#typed.className = "typed";
    this.#caret.className = "caret";
    this.#rest.className = "rest";
    for (const part of [this.#typed, this.#caret, this.#rest]) part.ariaHidden = "true";
    root.append(this.#typed, this.#caret, this.#rest);
  }

  /** @param {Typing} message */
  take(message) {
    const now = this.#message;
    if (now && now.at === message.at && now.seed === message.seed && now.text === message.text) return;
    this.#message = message;
    this.#alarm.set(message.at, () => this.#begin(message));
  }

  /** The scene changed: what stands goes. */
  clear() {
    this.#alarm.clear();
    this.#message = null;
    this.#root.removeAttribute("data-on");
    const gone = this.#typed.textContent;
    // Emptied once it has faded, unless something new is being typed by then.
    setTimeout(() => {
      if (!this.#root.hasAttribute("data-on") && this.#typed.textContent === gone) this.#set([], 0);
    }, 700);
  }

  /** @param {Typing} message */
  #begin(message) {
    const standing = this.#root.hasAttribute("data-on") ? this.#letters.slice(0, this.#count).join("") : "";
    const { letters, strokes: plan } = strokes(message, standing);
    this.#root.ariaLabel = message.text;
    if (letters.length === 0) {
      this.clear();
      return;
    }
    this.#root.setAttribute("data-on", "");
    this.#root.dataset.caret = "solid";
    this.#set(letters, message.text ? 0 : letters.length);

    let next = 0;
    const step = () => {
      // All strokes that are past at once: on joining in the middle, or after the page could not run for a while.
      const since = this.#schedule.now() - message.at + 0.002;
      while (next < plan.length && plan[next].at <= since) next += 1;
      if (next > 0) this.#set(letters, plan[next - 1].count);
      if (next < plan.length) this.#alarm.set(message.at + plan[next].at, step);
      else this.#end(message, plan);
    };
    step();
  }

  /**
   * @param {Typing} message
   * @param {{at: number, count: number}[]} plan
   */
  #end(message, plan) {
    this.#root.dataset.caret = "blinking";
    const done = message.at + (plan.at(-1)?.at ?? 0);
    this.#alarm.set(done + CARET, () => {
      if (this.#count === 0) this.#root.removeAttribute("data-on");
      else this.#root.dataset.caret = "none";
    });
  }

  /**
   * @param {string[]} letters
   * @param {number} count how many of them stand; the others keep their room, so that lines break once and for all
   */
  #set(letters, count) {
    this.#letters = letters;
    this.#count = count;
    this.#typed.textContent = letters.slice(0, count).join("");
    this.#rest.textContent = letters.slice(count).join("");
  }
}
