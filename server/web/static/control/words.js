// @ts-check
/** Numbers and states in words, for people in the dark (pure). */

import { daysAhead, written } from "../shared/hours.js";

const two = (/** @type {number} */ n) => String(n).padStart(2, "0");

/** Seconds as 00:44:22. @param {number} seconds */
export function position(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${two(Math.floor(whole / 3600))}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

/** Seconds to wait: 3.2, 0:42, 12:05, 1:12:05; they run out upwards, so that 0 is now. @param {number} seconds */
export function countdown(seconds) {
  if (seconds < 0) return "now";
  if (seconds < 10) return seconds.toFixed(1);
  const whole = Math.ceil(seconds);
  const hours = Math.floor(whole / 3600);
  const rest = `${hours ? two(Math.floor(whole / 60) % 60) : Math.floor(whole / 60)}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

/** How long ago: 0.4 s, 12 s, 5 min, 3 h. @param {number} seconds */
export function age(seconds) {
  const past = Math.max(0, seconds);
  if (past < 10) return `${past.toFixed(1)} s`;
  if (past < 120) return `${Math.round(past)} s`;
  if (past < 7200) return `${Math.round(past / 60)} min`;
  return `${Math.round(past / 3600)} h`;
}

/** In which hours are told: the show's, wherever this page is read. @type {{name: string | null, utc_offset: number} | null} */
let zone = null;

/** @param {import("./types.js").ZoneState} given as the state tells it */
export function inZone(given) {
  zone = given ?? null;
}

/** The zone, for people. */
export function zoneName() {
  if (!zone) return "this device’s time";
  if (zone.name) return zone.name.replaceAll("_", " ");
  const minutes = Math.round(Math.abs(zone.utc_offset) / 60);
  return `UTC${zone.utc_offset < 0 ? "−" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}

/** A time of day in the show's zone, from Unix time. @param {number} unix */
export function timeOfDay(unix) {
  const milliseconds = Math.floor(unix) * 1000;
  if (!Number.isFinite(milliseconds) || Math.abs(milliseconds) > 8e15) return "?";
  const shifted = (/** @type {number} */ seconds) => new Date(milliseconds + seconds * 1000).toISOString().slice(11, 19);
  if (!zone) return shifted(new Date(milliseconds).getTimezoneOffset() * -60);
  try {
    if (zone.name) {
      return new Intl.DateTimeFormat("en-GB", { timeZone: zone.name, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(milliseconds);
    }
  } catch {
    // a zone that this browser does not know
  }
  return shifted(zone.utc_offset);
}

/**
 * When the next screening is, by its own day and hour: 10:00, tomorrow 10:00, Sat 10:00, 21 Nov 10:00.
 * @param {string} local as the server has it
 * @param {number} left seconds until then
 */
export function nextAt(local, left) {
  const days = daysAhead(local, left, zone?.name ?? "");
  const time = local.slice(11, 16);
  if (days <= 0) return time;
  if (days === 1) return `tomorrow ${time}`;
  return `${written(local, "en", days <= 6 ? { weekday: "short" } : { day: "numeric", month: "short" })} ${time}`;
}

/** Until when a force lasts, in the server's words. @param {string | null} until */
export function until(until) {
  const means = { "next cue": "the next cue is over", "end of screening": "the screening ends" };
  return `until ${means[/** @type {keyof means} */ (until)] ?? until ?? "released"}`;
}

/** Who, without what the log knows of the role anyway. @param {string | null} name */
export const who = (name) => String(name ?? "somebody").replace(/ \((operator|viewer)\)$/, "");

/** What a run is made of. @param {{provider: string, engine: string | null, set_id: number | null}} now */
export function source(now) {
  if (now.provider === "hold") return "holding the picture before";
  if (now.set_id !== null && now.set_id !== undefined) return `${now.provider}, set ${now.set_id}`;
  return now.engine ? `${now.provider}, ${now.engine}` : now.provider;
}

/** A cue's kind, short. @param {import("./types.js").CueState} cue */
export function kind(cue) {
  const names = { transcript: "line", prompt: "prompt", "move-slider": "slider", navigate: "scene", "set-fade-status": "fade" };
  return names[/** @type {keyof names} */ (cue.action)] ?? cue.action;
}

/** What a cue says or does. @param {import("./types.js").CueState} cue */
export function said(cue) {
  if (cue.action === "move-slider" && cue.prompt) return `${cue.prompt}, at ${cue.text}`;
  return cue.text || cue.prompt || cue.action;
}

const several = (/** @type {number} */ n, /** @type {string} */ noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

/** How many findings of each kind there are. @param {{errors: number, warnings: number, notes: number}} told */
export function counts(told) {
  return [
    told.errors ? several(told.errors, "error") : "",
    told.warnings ? several(told.warnings, "warning") : "",
    told.notes ? several(told.notes, "note") : "",
  ].filter(Boolean).join(", ");
}

/** Where in the show a finding is. @param {import("./types.js").FindingState} finding */
export function place(finding) {
  const set = finding.set_id === null || finding.set_id === undefined ? "" : `set ${finding.set_id}`;
  const where = [finding.time, finding.action_id, set].filter(Boolean).join(" · ") || finding.code.replaceAll("_", " ");
  return finding.count > 1 ? `${where} · ${finding.count} times` : where;
}

/** What a rehearsal was asked for, where that is not the show as it is. @param {any} asked */
export function asked(asked) {
  const rate = (/** @type {number} */ bits) => (bits >= 1e6 ? `${bits / 1e6} Mbit/s` : `${bits / 1e3} kbit/s`);
  return [
    asked?.screenings ? several(asked.screenings, "screening") : "",
    asked?.bandwidth ? `a line of ${rate(asked.bandwidth)}` : "",
    asked?.latency ? `${Math.round(asked.latency * 1000)} ms a request` : "",
    asked?.fail?.length ? `without ${asked.fail.join(", ")}` : "",
    asked?.from ? `from ${position(asked.from)}` : "",
    asked?.to ? `to ${position(asked.to)}` : "",
    asked?.deep ? "every image decoded" : "",
    asked?.seed === undefined || asked?.seed === null ? "" : `seed ${asked.seed}`,
  ].filter(Boolean).join(" · ");
}
