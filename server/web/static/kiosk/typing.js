// @ts-check
/**
 * What is asked of the machine, typed as by a hand. Every screen types in the same rhythm: it comes from the message's seed,
 * and where a screen stands in it from the clock alone, so one that joins late has it right at once.
 */

import { Alarm } from "./alarm.js";

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
 * The strokes of a message (pure): `at` seconds after its beginning, the first `count` code points of `whole` stand. What
 * stands is erased down to the beginning that both texts have in common, then the rest is typed. A stroke is a code point,
 * as for the server, which must know how long all of it takes (server/timeline/keystrokes.py does the same).
 * @param {Typing} message
 * @returns {{at: number, whole: string[], count: number}[]}
 */
export function strokes(message) {
  const { base, variance } = message.delay;
  const dice = random(message.seed);
  const standing = Array.from(message.from ?? "");
  const text = Array.from(message.text);
  /** @type {{at: number, whole: string[], count: number}[]} */
  const made = [];
  let at = 0;
  /** @param {string[]} whole @param {number} count */
  const press = (whole, count) => {
    // Two dice rather than one: hands are mostly near their mean.
    at += Math.max(FASTEST, base + variance * (dice() + dice() - 1));
    made.push({ at, whole, count });
  };
  let common = 0;
  while (common < standing.length && standing[common] === text[common]) common += 1;
  for (let count = standing.length - 1; count >= common; count -= 1) press(standing, count);
  for (let count = common + 1; count <= text.length; count += 1) press(text, count);
  if (message.erase && text.length > 0) {
    at += REST;
    for (let count = text.length - 1; count >= 0; count -= 1) press(text, count);
  }
  // In a hurry, or where the server's time runs at another speed, what counts is how long all of it takes.
  const scale = message.seconds == null || at === 0 ? 1 : message.seconds / at;
  for (const stroke of made) stroke.at *= scale;
  return made;
}

const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : null;

/**
 * What a reader sees of a text of which `count` code points are typed: its letters that are whole, and the rest of it.
 * @param {string[]} whole
 * @param {number} count
 * @returns {[string, string]}
 */
export function visible(whole, count) {
  const text = whole.join("");
  const typed = whole.slice(0, count).join("").length;
  // Only where a letter might be cut in two: each of these is looked for at every stroke.
  if (!segmenter || typed === 0 || typed === text.length) return [text.slice(0, typed), text.slice(typed)];
  const end = segmenter.segment(text).containing(typed)?.index ?? typed;
  return [text.slice(0, end), text.slice(end)];
}

export class TypedLine {
  #root;
  #clock;
  #alarm;
  #typed = document.createElement("span");
  #caret = document.createElement("span");
  #rest = document.createElement("span");
  /** @type {Typing | null} */
  #message = null;
  /** How many code points stand. */
  #count = 0;

  /**
   * @param {HTMLElement} root
   * @param {import("../shared/clock.js").Clock} clock
   */
  constructor(root, clock) {
    this.#root = root;
    this.#clock = clock;
    this.#alarm = new Alarm(clock);
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
    const standing = Array.from(message.from ?? "");
    const plan = strokes(message);
    this.#root.ariaLabel = message.text;
    if (plan.length === 0 && standing.length === 0) {
      this.clear();
      return;
    }
    this.#root.setAttribute("data-on", "");
    this.#root.dataset.caret = "solid";
    // From an empty line the room of the whole text is taken at once, so that its lines break once and for all.
    this.#set(standing.length > 0 ? standing : Array.from(message.text), standing.length);

    let next = 0;
    const step = () => {
      // All strokes that are past at once: on joining in the middle, or after the page could not run for a while.
      const since = this.#clock.now() - message.at + 0.002;
      while (next < plan.length && plan[next].at <= since) next += 1;
      if (next > 0) this.#set(plan[next - 1].whole, plan[next - 1].count);
      if (next < plan.length) this.#alarm.set(message.at + plan[next].at, step);
      else this.#end(message.at + (plan.at(-1)?.at ?? 0));
    };
    step();
  }

  /** @param {number} done when the last key was pressed */
  #end(done) {
    this.#root.dataset.caret = "blinking";
    this.#alarm.set(done + CARET, () => {
      if (this.#count === 0) this.#root.removeAttribute("data-on");
      else this.#root.dataset.caret = "none";
    });
  }

  /**
   * @param {string[]} whole
   * @param {number} count how much of it stands; the rest keeps its room
   */
  #set(whole, count) {
    this.#count = count;
    [this.#typed.textContent, this.#rest.textContent] = visible(whole, count);
  }
}
