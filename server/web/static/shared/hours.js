// @ts-check
/**
 * Days and hours as the show's place has them (pure). This machine's clock and its time zone are never asked: what is
 * printed comes from the server as day and hour ("2026-11-21T10:00:00+01:00"), and how far away it is by the steady clock.
 */

const DAY = 86400;

/**
 * How many days ahead of now it is: 0 is today, 1 tomorrow.
 * @param {string} local day, hour and distance from UTC
 * @param {number} left seconds until then
 * @param {string} timezone the show's, by a name that browsers know; empty where it has none
 */
export function daysAhead(local, left, timezone) {
  const now = Date.parse(local) - left * 1000;
  return Math.round((Date.parse(local.slice(0, 10)) - Date.parse(dayAt(now, timezone, distance(local)))) / (DAY * 1000));
}

/**
 * The day of a moment in the zone, as "2026-11-21".
 * @param {number} unix milliseconds
 * @param {string} timezone
 * @param {number} ahead milliseconds ahead of UTC, for a zone that this browser does not know
 */
function dayAt(unix, timezone, ahead) {
  try {
    if (timezone) {
      const parts = new Intl.DateTimeFormat("en-US", { timeZone: timezone, calendar: "gregory", numberingSystem: "latn", year: "numeric", month: "2-digit", day: "2-digit" }).formatToParts(unix);
      const part = (/** @type {string} */ type) => parts.find((each) => each.type === type)?.value ?? "";
      return `${part("year").padStart(4, "0")}-${part("month")}-${part("day")}`;
    }
  } catch {
    // a zone that this browser does not know
  }
  return new Date(unix + ahead).toISOString().slice(0, 10);
}

/** Milliseconds by which a local time is ahead of UTC. @param {string} local */
export function distance(local) {
  return Date.parse(`${local.slice(0, 19)}Z`) - Date.parse(local);
}

/**
 * A part of it in a language: its hour, its weekday, its day.
 * @param {string} local
 * @param {string} language
 * @param {Intl.DateTimeFormatOptions} options
 */
export function written(local, language, options) {
  const fields = new Date(`${local.slice(0, 19)}Z`); // its own day and hour, whatever the zone
  return new Intl.DateTimeFormat(known(language), { ...options, timeZone: "UTC" }).format(fields);
}

/** Day before month, as all but one country that writes English has it. @param {string} language */
function known(language) {
  try {
    return Intl.getCanonicalLocales(language === "en" ? "en-GB" : language);
  } catch {
    return "en-GB";
  }
}
