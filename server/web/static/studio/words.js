// @ts-check
/** What the Studio says, in words (pure). Here alone, so that one thing is called the same everywhere. */

const several = (/** @type {number} */ n, /** @type {string} */ noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

/** Pictures, counted. @param {number} n */
export const pictures = (n) => several(n, "picture");

/** How a picture stands. */
const PICTURE = {
  queued: "waits its turn",
  running: "drawing begins",
  ready: "ready",
  failed: "failed",
  cancelled: "cancelled",
};

/** What happens where a code says it shorter than a message could. @type {Record<string, string>} */
const REASONS = {
  engine_away: "the engine is away",
  engine_unavailable: "the engine is away",
  unavailable: "the engine is away",
  no_engine: "no engine can draw this",
  refused: "every engine refuses it",
  crashed: "the Studio died with it three times",
  disk_full: "the disk is full",
  budget_exceeded: "the budget is used up",
};

/** What the Studio says where whoever paused it has said nothing. */
const UNSAID = "somebody paused it";

/** Seconds, as long as they are worth telling: 4.2 s, 40 s, 3 min, 1 h 20 min. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${Number.isInteger(seconds) ? seconds : Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 100) return `${seconds < 30 ? Math.round(seconds) : Math.round(seconds / 5) * 5} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** How long it will still be. @param {number | null | undefined} seconds null where nothing was measured */
export function left(seconds) {
  if (seconds === null || seconds === undefined) return "nobody knows yet how long";
  if (seconds < 5) return "a moment left";
  return `about ${duration(Math.ceil(seconds))} left`;
}

/** How long until it begins and is done, for what waits. @param {number | null | undefined} seconds */
export function until(seconds) {
  if (seconds === null || seconds === undefined) return "nobody knows yet when";
  return seconds < 5 ? "done in a moment" : `done in about ${duration(Math.ceil(seconds))}`;
}

/** Money. @param {number | import("./types.js").Cost | null | undefined} cost @param {string} [currency] */
export function money(cost, currency = "EUR") {
  const amount = typeof cost === "number" ? cost : cost?.amount;
  if (!amount) return ""; // what costs nothing is not told
  const unit = (typeof cost === "number" ? null : cost?.currency) ?? currency;
  return `${amount > 0 && amount < 0.01 ? amount.toPrecision(1) : amount.toFixed(2)} ${unit}`;
}

/** What it would take. @param {import("./types.js").Estimate} estimate @param {number} n pictures asked for */
export function estimate(estimate, n) {
  const { seconds } = estimate;
  return [
    pictures(estimate.pictures ?? n),
    seconds === null || seconds === undefined ? "nobody knows yet how long" : `about ${duration(Math.ceil(seconds))}`,
    money(estimate.cost, estimate.currency),
  ].filter(Boolean).join(", ");
}

/** Why, in a line. @param {import("./types.js").Problem | null | undefined} problem */
export function why(problem) {
  if (!problem) return "";
  const reason = REASONS[problem.code];
  const { message } = problem;
  if (!reason) return message || problem.code.replaceAll("_", " ");
  return !message || message.startsWith(reason) ? message || reason : `${reason}: ${message}`;
}

/** How a picture stands. @param {import("./types.js").Item} item @param {{step: number, steps: number} | undefined} step what was last seen of it */
export function picture(item, step) {
  if (item.status === "running" && step) return `step ${step.step} of ${step.steps}`;
  if (item.status === "ready" && item.seed !== null && item.seed !== undefined) return `seed ${item.seed}`;
  return PICTURE[item.status] ?? item.status;
}

/** The commonest reason among what failed. @param {import("./types.js").Job} job */
function reason(job) {
  /** @type {Map<string, number>} */
  const counted = new Map();
  for (const { status, error } of job.items) {
    if (status === "failed" && error) counted.set(why(error), (counted.get(why(error)) ?? 0) + 1);
  }
  const [most] = [...counted].sort((one, other) => other[1] - one[1]);
  return most?.[0] ?? why(job.error);
}

/** What became of a job. @param {import("./types.js").Job} job */
export function outcome(job) {
  const because = reason(job);
  switch (job.status) {
    case "completed":
      if (!job.partial && !job.failed) return pictures(job.done);
      return `${job.done} of ${job.total}; ${job.failed} failed${because ? `: ${because}` : ""}`;
    case "failed":
      return `Failed${because ? `: ${because}` : ""}`;
    case "cancelled":
      return job.done ? `Cancelled; ${job.done} of ${job.total} were ready` : "Cancelled";
    default:
      return "";
  }
}

/** How it was asked for. @param {import("./types.js").Job} job */
export function terms(job) {
  const { program, style, speed, cue } = job.request ?? {};
  return [program, style, speed === "fast" ? "fast" : "", cue ? `for ${cue}` : ""].filter(Boolean).join(" · ");
}

/** The words that a picture was asked for with. @param {import("./types.js").Job} job */
export const prompt = (job) => job.request?.prompt || "a picture without words";

/** A time of day, or a day for what is older, here. @param {string | number | null | undefined} at Unix seconds, or ISO 8601 @param {number} now Unix milliseconds */
export function hour(at, now) {
  if (at === null || at === undefined) return "";
  const then = new Date(typeof at === "number" ? at * 1000 : at);
  if (Number.isNaN(then.getTime())) return "";
  const time = then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (new Date(now).toDateString() === then.toDateString()) return time;
  return `${then.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

/** The queue at a glance. @param {import("./types.js").Queue} queue */
export function queue(queue) {
  const counts = [queue.running ? `${queue.running} drawing` : "", queue.waiting ? `${queue.waiting} waiting` : ""].filter(Boolean).join(" · ");
  if (queue.paused) return `paused${queue.waiting ? ` · ${queue.waiting} waiting` : ""}`;
  return counts || "nothing to draw";
}

/** Why the queue stands still. @param {import("./types.js").Pause} pause */
export function paused(pause) {
  const reason = pause.by && pause.message === UNSAID ? "" : why(pause);
  return `Paused${pause.by ? ` by ${pause.by}` : ""}${reason ? `: ${reason}` : ""}`;
}

/** What an engine does. @param {import("./types.js").Slot} slot */
export function slot(slot) {
  if (slot.rests) return why(slot.rests);
  if (!slot.working_on) return "free";
  return slot.working_on.job === null ? "draws for somebody else" : `draws picture ${(slot.working_on.n ?? 0) + 1}`;
}

/** How soon something is to be drawn, where that is not as usual. @param {number | undefined} priority 0 to 9, 5 is usual */
export function priority(priority = 5) {
  if (priority === 5) return "";
  return priority > 5 ? `before others (${priority})` : `after others (${priority})`;
}

/** A share in per cent; what is not quite all is never 100. @param {number | null | undefined} rate 0 to 1 */
export function percent(rate) {
  if (rate === null || rate === undefined) return "–";
  return `${rate < 1 ? Math.min(99, Math.round(rate * 100)) : 100} %`;
}
