// @ts-check
/**
 * Between screenings: the show's own still, or its title set large, and when it goes on. Also what stands in for a
 * picture while a screening has none yet.
 */

/** @typedef {import("./messages.js").Screening} Screening */

const HOUR = 3600;
const DAY = 86400;

/**
 * What the line under the title says (pure).
 * @param {Screening} screening
 * @param {number} now
 * @param {string} timezone
 * @returns {{lead: string, time: string}}
 */
export function when({ status, next }, now, timezone) {
  if (status === "active") return { lead: "", time: "" };
  if (next === null || next === undefined) return { lead: status === "closed" ? "Closed" : "", time: "" };
  const left = next - now;
  if (status === "closed") return clockTime("Closed. Opens", next, now, timezone);
  if (left <= 0) return { lead: "In a moment", time: "" };
  if (left >= HOUR) return clockTime("Begins", next, now, timezone);
  const seconds = Math.ceil(left);
  return { lead: "Begins in", time: `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` };
}

/**
 * @param {string} lead
 * @param {number} at
 * @param {number} now
 * @param {string} timezone
 */
function clockTime(lead, at, now, timezone) {
  const format = (/** @type {Intl.DateTimeFormatOptions} */ options, /** @type {number} */ time) => {
    const date = new Date(time * 1000);
    try {
      return new Intl.DateTimeFormat("en-GB", { ...options, timeZone: timezone }).format(date);
    } catch {
      return new Intl.DateTimeFormat("en-GB", options).format(date); // a zone this browser does not know
    }
  };
  const time = format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }, at);
  const day = (/** @type {number} */ t) => format({ dateStyle: "short" }, t);
  if (day(at) === day(now)) return { lead: `${lead} at`, time };
  if (at - now < 6 * DAY) return { lead, time: `${format({ weekday: "long" }, at)} at ${time}` };
  return { lead, time: `${format({ day: "numeric", month: "long" }, at)} at ${time}` };
}

export class Lobby {
  #root;
  #calm;
  #schedule;
  #hooks;
  /** @type {Screening | null} */
  #screening = null;
  #timezone = "UTC";
  #still = "";
  #timer = 0;
  #settled = 0;
  #lead;
  #time;

  /**
   * @param {{root: HTMLElement, calm: HTMLElement}} elements
   * @param {import("./schedule.js").Schedule} schedule
   * @param {{hidden: () => void}} hooks hidden: the stage can no longer be seen
   */
  constructor({ root, calm }, schedule, hooks) {
    this.#root = root;
    this.#calm = calm;
    this.#schedule = schedule;
    this.#hooks = hooks;
    this.#lead = /** @type {HTMLElement} */ (root.querySelector(".lead"));
    this.#time = /** @type {HTMLElement} */ (root.querySelector(".time"));
  }

  /**
   * @param {{title: string, timezone: string}} show
   * @param {string} still
   */
  dress({ title, timezone }, still) {
    this.#timezone = timezone;
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
      image.src = still;
      try {
        await image.decode();
        if (this.#still !== still) return;
        for (const place of places) {
          /** @type {HTMLImageElement} */ (place.querySelector(".still")).src = still;
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
    const now = this.#schedule.now();
    const { lead, time } = when(this.#screening, now, this.#timezone);
    // While it is on its way out the line keeps what it said.
    if (this.#screening.status !== "active") {
      if (this.#lead.textContent !== lead) this.#lead.textContent = lead;
      if (this.#time.textContent !== time) this.#time.textContent = time;
    } else return;
    const { next } = this.#screening;
    // Just after the whole second, counted from the start of the screening.
    const wait = next === null || next === undefined ? 30 : ((((next - now) % 1) + 1) % 1) + 0.005;
    this.#timer = setTimeout(() => this.#tell(), wait * 1000);
  }
}
