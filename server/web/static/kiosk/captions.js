// @ts-check
/**
 * The lecturer's voice: a line of transcript whose words come to light as they are spoken. The whole line is set at
 * once, unlit, so that no word moves when the next one comes.
 */

import { Alarm } from "./alarm.js";

/** @typedef {import("./messages.js").Caption} Caption */

/** Sizes tried, largest first, until the line fits the room it has. */
const SIZES = [1, 0.92, 0.85, 0.78, 0.72, 0.66, 0.6, 0.54, 0.48];
/** A word lights up a little before it is heard: light takes its time to rise. */
const RISE = 0.06;

/**
 * The words of a caption as they are to be set, and when each is spoken (pure). Where the transcript's words do not
 * spell the text, the text is right, and its words take the times of those that were heard at the same place.
 * @param {Caption} caption
 * @returns {{text: string, start: number}[]}
 */
export function spoken({ text, words, at }) {
  const squash = (/** @type {string} */ s) => s.replace(/\s+/g, " ").trim();
  const heard = words ?? [];
  if (heard.length > 0 && squash(heard.map((w) => w.word).join("")) === squash(text)) {
    return heard.map((w, i) => ({ text: i === 0 ? w.word.trimStart() : w.word, start: w.start }));
  }
  const parts = text.trim().match(/\S+\s*/g) ?? [];
  return parts.map((part, i) => {
    const same = heard[Math.floor((i * heard.length) / parts.length)];
    return { text: part, start: same ? same.start : at };
  });
}

export class Captions {
  enabled = true;

  #root;
  #clock;
  #begin;
  #end;
  #word;
  /** @type {HTMLElement | null} */
  #line = null;
  /** @type {Caption | null} */
  #caption = null;

  /**
   * @param {HTMLElement} root
   * @param {import("../shared/clock.js").Clock} clock
   */
  constructor(root, clock) {
    this.#root = root;
    this.#clock = clock;
    this.#begin = new Alarm(clock);
    this.#end = new Alarm(clock);
    this.#word = new Alarm(clock);
  }

  /** @param {Caption} caption */
  take(caption) {
    if (!this.enabled) return;
    const now = this.#caption;
    if (now && now.text === caption.text && now.at === caption.at) return; // told again on rejoining
    if (caption.text.trim() === "") {
      this.clear();
      return;
    }
    if (this.#clock.now() >= caption.until) return;
    this.#begin.set(caption.at, () => this.#show(caption));
  }

  /** The room for the words has changed. */
  refit() {
    if (this.#line) this.#fit(this.#line);
  }

  clear() {
    this.#begin.clear();
    this.#leave("gently");
  }

  /** @param {Caption} caption */
  #show(caption) {
    this.#leave("quickly");
    const words = spoken(caption);
    this.#caption = caption;
    const line = document.createElement("p");
    line.dir = "auto"; // as its own script is written: a full stop stands at its end
    const spans = words.map(({ text }) => {
      const span = document.createElement("span");
      span.textContent = text;
      return span;
    });
    line.append(...spans);
    this.#root.append(line);
    this.#root.parentElement?.setAttribute("data-on", "");
    this.#fit(line);
    this.#line = line;

    // What has been said before we came stands there as if it always had.
    const now = this.#clock.now();
    let next = 0;
    for (; next < words.length && words[next].start < now - 0.5; next += 1) spans[next].className = "lit already";
    const light = () => {
      if (next >= words.length) return;
      this.#word.set(words[next].start - RISE, () => {
        spans[next].className = "lit";
        next += 1;
        light();
      });
    };
    light();
    this.#end.set(caption.until, () => this.#leave("gently"));
  }

  /** @param {"quickly" | "gently"} how */
  #leave(how) {
    this.#word.clear();
    this.#end.clear();
    const line = this.#line;
    this.#line = null;
    this.#caption = null;
    if (!line) return;
    line.className = how;
    // Nobody may have taken over when it is gone; then the dusk behind the words goes too.
    this.#root.parentElement?.removeAttribute("data-on");
    setTimeout(() => line.remove(), 1600);
  }

  /** @param {HTMLElement} line */
  #fit(line) {
    const room = this.#root.clientHeight;
    line.style.maxWidth = "";
    for (const size of SIZES) {
      line.style.setProperty("--size", String(size));
      if (line.offsetHeight <= room) break;
    }
    // The browser balances short paragraphs only; a long one is narrowed as far as it keeps its number of lines.
    const height = line.offsetHeight;
    const lines = height / parseFloat(getComputedStyle(line).lineHeight);
    for (let width = line.offsetWidth * 0.98, steps = 0; lines > 5.5 && steps < 15; width *= 0.98, steps += 1) {
      const before = line.style.maxWidth;
      line.style.maxWidth = `${width}px`;
      if (line.offsetHeight <= height) continue;
      line.style.maxWidth = before;
      break;
    }
    this.#root.parentElement?.style.setProperty("--said", `${line.offsetHeight}px`);
  }
}
