// @ts-check
/**
 * The technician's page. It shows what the server says and nothing else: a button has done something when the state
 * says so. Where the line is lost it says that at once, and how old what it shows is.
 */

import { here } from "../shared/address.js";
import { times } from "../shared/speed.js";
import * as conditions from "./conditions.js";
import { Cues } from "./cues.js";
import { ServerConnection } from "./connection.js";
import { element, mark, say } from "../shared/dom.js";
import * as findings from "./findings.js";
import { Guard } from "./guard.js";
import { Lists } from "./lists.js";
import { Mode } from "./mode.js";
import { Rehearsal } from "./rehearsal.js";
import { Wall } from "./wall.js";
import * as words from "./words.js";

const { body } = document;

// ----------------------------------------------------------------- what is kept in this tab

const kept = {
  /** @param {string} key */
  get(key) {
    try {
      return sessionStorage.getItem(`understudy.${key}`) ?? localStorage.getItem(`understudy.${key}`);
    } catch {
      return null; // storage is forbidden here
    }
  },
  /** @param {string} key @param {string} value @param {Storage} [where] */
  set(key, value, where = sessionStorage) {
    try {
      where.setItem(`understudy.${key}`, value);
    } catch {
      // then it is asked for again
    }
  },
};
/** @type {string | null} */
let token = kept.get("token") || null;
let name = kept.get("name") ?? "";
let keys = kept.get("keys") !== "off";

/** A name of which two do not exist: it also says whose commands are whose. */
function ownName() {
  let suffix = kept.get("suffix");
  if (!suffix) {
    suffix = Math.random().toString(36).slice(2, 6);
    kept.set("suffix", suffix);
  }
  const device = /iPhone|Android.*Mobile/.test(navigator.userAgent) ? "phone" : /iPad|Android/.test(navigator.userAgent) ? "tablet" : "desk";
  return name ? `${name} ${suffix}` : `${device} ${suffix}`;
}

// ----------------------------------------------------------------- parts

const server = new ServerConnection({ hello: () => ({ token, name: ownName() }), changed: show, restarted, refused });
const wall = new Wall();
const cues = new Cues(act);
const mode = new Mode(act);
const lists = new Lists(act);
const rehearsal = new Rehearsal(act);
cues.onchoose = permit;

/** What each command did, for the line at the foot. @type {Record<string, (result: any, args: any) => string>} */
const done = {
  go: (r) => `Go: now at ${r.time ?? r.status}`,
  standby: () => "On standby",
  next: (r) => `Next: now at ${r.time}`,
  previous: (r) => `Previous: now at ${r.time}`,
  pause: () => "Paused: the picture is finished, the clock stands",
  resume: () => "Playing on",
  rejoin: (r) => (r.time ? `Back on schedule at ${r.time}` : "Back on schedule"),
  seek: (r) => `Now at ${r.time}`,
  hold: () => "Holding the picture until the next cue",
  regenerate: () => "Drawing it again",
  prefetch: () => "Fetching what is coming",
  panic: () => "The wall is black",
  restore: () => "The wall is back",
  identify: (_, args) => `${args.screen} shows its name`,
  reload: (_, args) => `${args.screen} loads anew`,
  "screens.forget": (_, args) => `${args.screen} is not expected any more`,
  "mode.force": (_, args) => `Forced ${args.mode}${args.cue === undefined ? "" : ` for ${args.cue}`}`,
  "mode.release": () => "Released",
  "engine.reset": (_, args) => `${args.engine} is trusted again`,
  rehearse: () => "Rehearsing in the background; the show goes on",
  "rehearse.cancel": () => "The rehearsal is broken off; the show goes on",
};

/**
 * Give a command, and say what became of it.
 * @param {string} command
 * @param {Record<string, any>} [args]
 */
async function act(command, args = {}) {
  const buttons = document.querySelectorAll(`[data-command="${CSS.escape(command)}"]`);
  for (const button of buttons) mark(/** @type {HTMLElement} */ (button), "pending", "");
  try {
    const result = await server.ask(command, args);
    const did = done[command]?.(result, args) ?? `${command}: done`;
    if (result?.kept === false) tell(`${did}, but NOT KEPT: a restart forgets it (${result.not_kept})`, "no");
    else tell(did, "ok");
  } catch (problem) {
    const { code, message } = /** @type {import("./connection.js").Problem} */ (problem);
    tell(code === "too_soon" ? "Too soon after the last go: nothing was done" : `${command}: ${message}`, "no");
  } finally {
    for (const button of buttons) mark(/** @type {HTMLElement} */ (button), "pending", null);
  }
}

let saidTimer = 0;
/** @param {string} text @param {"ok" | "no"} how */
function tell(text, how) {
  const said = element("said");
  clearTimeout(saidTimer);
  say(said, text);
  mark(said, "how", how);
  mark(said, "on", "");
  saidTimer = setTimeout(() => mark(said, "on", null), how === "ok" ? 4000 : 9000);
}

// ----------------------------------------------------------------- what is shown

let shownCoverage = "";
let shownRun = "";
/** @type {string | undefined} */
let shownZone = "";

function show() {
  const { state } = server;
  if (state) {
    if (JSON.stringify(state.zone) !== shownZone) {
      shownZone = JSON.stringify(state.zone);
      words.inZone(state.zone);
      shownRun = ""; // hours that stand there already are told anew
      lists.clear();
      for (const place of document.querySelectorAll(".zone")) say(/** @type {HTMLElement} */ (place), words.zoneName());
    }
    showTop(state);
    wall.show(server);
    wall.next(server);
    mode.show(state.mode);
    cues.show(server);
    lists.show(state);
    findings.preflight(state);
    rehearsal.show(server);
    const { standby } = state;
    const cue = standby ? (standby.cue ?? `${words.kind(standby)} ${standby.time}`) : state.screening.status === "active" ? "no cue left" : "start the show";
    say(element("go-cue"), state.panic ? "restore first" : cue);
    say(element("panic").querySelector("b"), state.panic ? "Black" : "Panic");
    say(element("pause"), state.screening.paused ? "Resume" : "Pause");
    element("pause").dataset.command = state.screening.paused ? "resume" : "pause";
    const coverage = JSON.stringify([state.coverage, state.mode.effective, state.mode.forced, state.engines]);
    if (server.fresh && coverage !== shownCoverage) {
      shownCoverage = coverage;
      server.ask("cues").then(({ cues: all }) => {
        cues.refresh(all);
        cues.show(server);
        rehearsal.actions = all.filter((/** @type {import("./types.js").CueState} */ cue) => cue.program).map((/** @type {import("./types.js").CueState} */ cue) => cue.cue);
        rehearsal.show(server);
        permit();
      }, () => (shownCoverage = ""));
    }
    const run = `${state.now?.run} ${state.now?.outcome} ${state.now?.provider}`;
    if (server.fresh && run !== shownRun) {
      shownRun = run;
      server.ask("asrun", { limit: 12 }).then(({ rows }) => lists.asrun(rows), () => (shownRun = ""));
    }
  }
  showLine();
  permit();
  tick();
}

/** @param {import("./types.js").State} state */
function showTop(state) {
  say(element("title"), state.show.title);
  document.title = `${state.panic ? "PANIC · " : ""}${state.activation === "show" ? "" : "REHEARSAL · "}${state.show.title} · Control`;
  const rehearsal = state.activation !== "show";
  mark(body, "activation", state.activation);
  element("activation").hidden = !rehearsal;
  say(element("activation"), rehearsal ? `Rehearsal ${times(state.speed)}` : "");
  const { screening } = state;
  const off = !screening.on_schedule;
  mark(body, "schedule", off ? "off" : "on");
  mark(body, "panic", state.panic ? "" : null);
  say(element("schedule"), screening.paused ? "paused" : off ? "off schedule" : screening.status === "active" ? "on schedule" : screening.status);
  element("alarm-schedule").hidden = !off;
  say(
    element("alarm-schedule").querySelector("p"),
    screening.paused
      ? "Paused: the clock stands until somebody resumes."
      : "Off schedule: run by hand.",
  );
  element("alarm-panic").hidden = !state.panic;
  if (state.panic) say(element("alarm-panic").querySelector("p"), `Panic: black until restored. ${words.who(state.panic.by)}, ${words.timeOfDay(state.panic.at)}.`);
  conditions.show(state.health.conditions);
}

/** How it is, unless that is not known. */
function showHealth() {
  const { health } = server.state;
  const { fresh } = server;
  mark(element("health"), "level", fresh ? health.level : "unknown");
  const since = server.statedWall === null ? "" : ` since ${words.timeOfDay(server.statedWall)}`;
  say(element("health").querySelector(".words"), !fresh ? `unknown${since}` : health.level === "ok" ? "ok" : health.reason);
  element("health").title = fresh ? health.reason : "";
}

/** Why the server lets no socket in, where it says so: by this name, or through this proxy. A browser hides that. */
let refusal = "";

function showLine() {
  const fresh = server.fresh;
  mark(body, "line", fresh ? "live" : server.state ? "stale" : "connecting");
  mark(body, "role", server.role);
  say(element("line"), fresh ? (server.role === "viewer" ? "viewing only" : "") : server.heard ? "no news" : "no line");
  if (server.state) showHealth();
  const alarm = element("alarm-line");
  const lost = !fresh && (server.state !== null || server.heardAt > -Infinity || performance.now() > 3000);
  alarm.hidden = !lost || server.refused !== null;
  if (alarm.hidden) return;
  const old = server.statedWall === null ? "" : ` What you see is old: since ${words.timeOfDay(server.statedWall)} nothing has come.`;
  const why = refusal ? `The server lets this page in on no socket: ${refusal}. Trying again.` : server.heard ? "The server answers, but does not say how the show is; trying again." : "No line to the server; trying again.";
  say(alarm.querySelector("p"), `${why}${old} The walls go on by themselves.`);
  const past = server.clock.local() - server.statedAt; // not read out: it never stands still
  say(element("alarm-age"), Number.isFinite(past) ? `${words.age(past)} old` : "");
}

/** Buttons that could not do anything say so by being off. */
function permit() {
  const panic = Boolean(server.state?.panic);
  const dark = new Set(["go", "next", "previous", "regenerate", "hold"]);
  for (const button of document.querySelectorAll("button[data-command]")) {
    const { command = "" } = /** @type {HTMLElement} */ (button).dataset;
    /** @type {HTMLButtonElement} */ (button).disabled = !server.may(command) || (panic && dark.has(command));
  }
  for (const input of document.querySelectorAll("#mode-terms select, #mode-terms input")) {
    /** @type {HTMLInputElement} */ (input).disabled = !server.may("mode.force");
  }
  element("prefetch").hidden = !server.commands.has("prefetch");
  mark(element("mode"), "fixed", server.commands.has("mode.force") ? null : "");
  mark(element("rehearsal"), "fixed", server.commands.has("rehearse") ? null : "");
  element("panic").disabled = !server.may("panic") || panic;
  const nothingToFire = server.state?.screening.status === "active" && !server.state.standby;
  if (nothingToFire) element("go").disabled = true;
}

function tick() {
  if (!server.state) return;
  wall.tick(server);
  lists.tick(server);
  rehearsal.tick(server);
}

function restarted() {
  shownCoverage = shownRun = "";
}

// ----------------------------------------------------------------- what is pressed

for (const id of ["previous", "pause", "skip", "again", "hold", "go", "rejoin", "restore", "prefetch", "mode-release", "rehearse-cancel"]) {
  element(id).addEventListener("click", () => act(element(id).dataset.command));
}
element("seek").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  const field = element("seek-time");
  act("seek", { time: field.value.replace(/^(\d):/, "0$1:") });
  field.blur();
});
const panic = new Guard(element("panic"), element("panic-hint"), () => act("panic"));
element("asrun-csv").addEventListener("click", async () => {
  const answer = await fetch(here("/api/asrun?format=csv"), { headers: token ? { authorization: `Bearer ${token}` } : {} });
  if (!answer.ok) return tell(`as run: the server answered ${answer.status}`, "no");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = "asrun.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

// A pressed button keeps the focus, and the next space would press it again instead of going: only keys may leave it there.
addEventListener("pointerup", () => setTimeout(() => {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  if (focused?.tagName === "BUTTON" && !document.querySelector("dialog[open]")) focused.blur();
}));

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "?" && !typing) {
    event.preventDefault(); // or the name would be a question
    return openHelp();
  }
  if (!keys) return;
  if (event.key === "Escape") {
    if (typing) target.blur();
    else panic.press();
  }
  if (event.key !== " " || typing) return;
  if (target.matches("button:focus-visible, input[type=checkbox]")) return; // somebody who goes by keys means that one
  event.preventDefault();
  if (!element("go").disabled) act("go");
});
addEventListener("keyup", (event) => event.key === "Escape" && panic.release());

// ----------------------------------------------------------------- doors

function refused() {
  const door = element("door");
  if (token) say(element("door-why"), "This token is not one of this server’s. Try another.");
  token = null;
  kept.set("token", "");
  element("door-name").value = name;
  showLine();
  if (!door.open) door.showModal();
}

element("door").addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());
element("door").addEventListener("close", () => {
  token = element("door-token").value.trim() || null;
  element("door-token").value = "";
  if (token) kept.set("token", token);
  rename(element("door-name").value);
  server.connect();
});

function openHelp() {
  element("help-name").value = name;
  element("help-keys").checked = keys;
  element("help").showModal();
}
element("help-open").addEventListener("click", openHelp);
element("help").addEventListener("close", () => {
  keys = element("help-keys").checked;
  kept.set("keys", keys ? "on" : "off", localStorage);
  if (element("help-name").value.trim() !== name) {
    rename(element("help-name").value);
    server.connect();
  }
});

/** @param {string} to */
function rename(to) {
  name = to.trim();
  kept.set("name", name, localStorage);
}

async function askWhy() {
  if (server.fresh || server.heard || document.visibilityState !== "visible") {
    refusal = "";
    return;
  }
  try {
    const answer = await fetch(here("/api/control/state"), { method: "POST" });
    refusal = answer.status === 403 ? (await answer.json()).error.message : "";
  } catch {
    refusal = ""; // there is no line, as is told already
  }
}

setInterval(() => {
  tick();
  showLine();
  permit();
}, 250);
setInterval(askWhy, 3000);
server.connect();
