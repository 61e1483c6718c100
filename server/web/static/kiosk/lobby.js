// @ts-check
/**
 * Between screenings: the show's own still, or its title set large, and when it goes on. Also what stands in for a
 * picture while a screening has none yet.
 */

import { here } from "../shared/address.js";
import { daysAhead, written } from "../shared/hours.js";

/** @typedef {import("./messages.js").Screening} Screening */
/** @typedef {{text: string, told: boolean}} Piece a piece of the line; told: an hour, a day, or what is left until then */
/** @typedef {{language: string, hours: "24" | "12", texts: Record<string, string>, timezone: string}} Manner */

const HOUR = 3600;
/** Days ahead up to which a weekday says which day is meant. */
const WEEK = 6;

/**
 * What the line under the title says (pure).
 * @param {Screening} screening
 * @param {number} now
 * @param {Manner} manner
 * @returns {Piece[]}
 */
export function when({ status, next, next_local }, now, manner) {
  const say = (/** @type {string} */ name, /** @type {Record<string, string>} */ values = {}) => pieces(manner.texts[name] ?? "", values);
  if (status === "active") return [];
  if (next === null || next === undefined) return status === "closed" ? say("closed") : [];
  const left = next - now;
  if (status !== "closed") {
    if (left <= 0) return say("in_a_moment");
    const seconds = Math.ceil(left);
    if (left < HOUR) return say("begins_in", { left: `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` });
  }
  // An older server says no hour to print: its steady clock is the best there is.
  const local = next_local ?? new Date(Math.round(next) * 1000).toISOString();
  const verb = status === "closed" ? "opens" : "begins";
  const of = (/** @type {Intl.DateTimeFormatOptions} */ options) => written(local, manner.language, options);
  const time = manner.hours === "12" ? of({ hour: "numeric", minute: "2-digit", hour12: true }) : of({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const days = daysAhead(local, left, manner.timezone);
  if (days <= 0) return say(`${verb}_today`, { time });
  if (days === 1) return say(`${verb}_tomorrow`, { time });
  if (days <= WEEK) return say(`${verb}_weekday`, { time, day: of({ weekday: "long" }) });
  return say(`${verb}_date`, { time, day: of({ day: "numeric", month: "long" }) });
}

/**
 * A text with what its placeholders stand for.
 * @param {string} text
 * @param {Record<string, string>} values
 * @returns {Piece[]}
 */
function pieces(text, values) {
  return text
    .split(/(\{[a-z]+\})/)
    .map((part) => {
      const value = part.startsWith("{") ? values[part.slice(1, -1)] : undefined;
      return { text: value ?? part, told: value !== undefined };
    })
    .filter((piece) => piece.text);
}

export class Lobby {
  #root;
  #calm;
  #clock;
  #hooks;
  /** @type {Screening | null} */
  #screening = null;
  /** @type {Manner} */
  #manner = { language: "en", hours: "24", texts: {}, timezone: "" };
  #still = "";
  #timer = 0;
  #settled = 0;
  #said = "";
  #when;

  /**
   * @param {{root: HTMLElement, calm: HTMLElement}} elements
   * @param {import("../shared/clock.js").Clock} clock
   * @param {{hidden: () => void}} hooks hidden: the stage can no longer be seen
   */
  constructor({ root, calm }, clock, hooks) {
    this.#root = root;
    this.#calm = calm;
    this.#clock = clock;
    this.#hooks = hooks;
    this.#when = /** @type {HTMLElement} */ (root.querySelector(".when"));
  }

  /**
   * @param {{title: string, timezone: string}} show
   * @param {import("./messages.js").DisplaySettings} settings
   */
  dress({ title, timezone }, { still = "", language = "en", direction = "ltr", hours = "24", texts = {} }) {
    this.#manner = { language, hours, texts, timezone };
    // The same signs are drawn otherwise in Chinese and in Japanese: the language chooses the font.
    document.documentElement.lang = language;
    this.#root.lang = language;
    this.#root.dir = direction;
    for (const place of [this.#root, this.#calm]) {
      const element = /** @type {HTMLElement} */ (place.querySelector(".title"));
      element.textContent = title;
      // A long title is set smaller: it should be read in one look.
      element.style.setProperty("--letters", String(Math.max(14, title.length)));
    }
    if (still !== this.#still) this.#hang(still);
  }

  /** @param {Screening} screening */
  take(screening) {
    const was = this.#screening?.status;
    this.#screening = screening;
    const { status } = screening;
    document.body.dataset.screening = status;
    this.#tell();
    if (status === was) return;
    if (status !== "active") {
      if (!this.#settled) this.#settled = setTimeout(() => this.#hide(), 3500);
    } else if (this.#settled) this.#hide(); // a short pause: the stage must be empty all the same
  }

  /**
   * The still is shown only once it is really there; until then, and if it never comes, the title.
   * @param {string} still
   */
  async #hang(still) {
    this.#still = still;
    const places = [this.#root, this.#calm];
    if (!still) {
      for (const place of places) place.removeAttribute("data-still");
      return;
    }
    for (let wait = 1; this.#still === still; wait = Math.min(60, wait * 2)) {
      const image = new Image();
      image.src = here(still);
      try {
        await image.decode();
        if (this.#still !== still) return;
        for (const place of places) {
          /** @type {HTMLImageElement} */ (place.querySelector(".still")).src = image.src;
          place.setAttribute("data-still", "");
        }
        return;
      } catch {
        await new Promise((go) => setTimeout(go, wait * 1000));
      }
    }
  }

  #hide() {
    clearTimeout(this.#settled);
    this.#settled = 0;
    this.#hooks.hidden();
  }

  /** Say when it goes on, and go on saying it. */
  #tell() {
    clearTimeout(this.#timer);
    if (!this.#screening) return;
    const now = this.#clock.now();
    // While it is on its way out the line keeps what it said.
    if (this.#screening.status === "active") return;
    const line = when(this.#screening, now, this.#manner);
    const said = JSON.stringify(line);
    if (said !== this.#said) {
      this.#said = said;
      this.#when.replaceChildren(...line.map(piece));
    }
    const { next } = this.#screening;
    // Just after the whole second, counted from the start of the screening.
    const wait = next === null || next === undefined ? 30 : ((((next - now) % 1) + 1) % 1) + 0.005;
    this.#timer = setTimeout(() => this.#tell(), wait * 1000);
  }
}

/** @param {Piece} piece */
function piece({ text, told }) {
  if (!told) return text;
  const value = document.createElement("bdi"); // its direction is its own
  value.className = "time";
  value.textContent = text;
  return value;
}
