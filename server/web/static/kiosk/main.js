// @ts-check
/**
 * The kiosk page: a wall that does as it is told, and keeps what it has when nobody tells it anything.
 * Here the parts are put together; each of them does one thing.
 *
 * Address: ?screen=NAME  ?frames=url  ?token=…  ?latency=MS (what the projector adds after the browser)
 */

import { here, socket } from "../shared/address.js";
import { Captions } from "./captions.js";
import { Clock, Sync } from "../shared/clock.js";
import { Curtain } from "./curtain.js";
import * as glyphs from "./glyphs.js";
import { Display } from "./display.js";
import { Identify } from "./identify.js";
import { Lobby } from "./lobby.js";
import { behave } from "./manners.js";
import { PROTOCOL, parse, parseFrame } from "./messages.js";
import { Picture } from "./picture.js";
import { Presenter } from "./presenter.js";
import { Progress } from "./progress.js";
import { RehearsalMark } from "./rehearsal.js";
import { Report } from "./report.js";
import { Slider } from "./slider.js";
import { Link } from "../shared/socket.js";
import { TypedLine } from "./typing.js";

/** Reports of presented frames kept while the line is down. */
const OUTBOX = 64;
/** Seconds in which a second reload is not obeyed. */
const RELOAD = 10;

const query = new URLSearchParams(location.search);
const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

// ----------------------------------------------------------------- parts

const clock = new Clock();
const display = new Display((Number(query.get("latency")) || 0) / 1000);
const wall = element("wall");
const captions = new Captions(element("captions"), clock);
const typed = new TypedLine(element("typing"), clock);
const slider = new Slider(element("slider"), { clock, display });
const curtain = new Curtain(element("curtain"), clock);
const progress = new Progress(element("progress"));
const identify = new Identify(element("identify"));
const mark = new RehearsalMark();

const picture = new Picture(element("picture"), {
  placed({ left, top, width, height, words }) {
    wall.dataset.words = words;
    for (const [name, value] of Object.entries({ left, top, width, height })) {
      wall.style.setProperty(`--picture-${name}`, `${value}px`);
    }
    captions.refit();
  },
  failed: (message) => report.say("error", message),
});

const presenter = new Presenter(
  { clock, display, picture },
  {
    presented(header, at) {
      wall.dataset.begun = "";
      progress.step(header);
      const message = { type: "presented", run: header.run, step: header.step, at };
      if (!link.send(message) && outbox.push(message) > OUTBOX) outbox.shift();
    },
    failed: (message) => report.say("error", message),
  },
);

const lobby = new Lobby({ root: element("lobby"), calm: element("calm") }, clock, {
  hidden() {
    presenter.forget();
    picture.clear();
    typed.clear();
    slider.clear();
    captions.clear();
    progress.leave();
    delete wall.dataset.begun;
  },
});

const link = new Link(socket("/ws/screen"), {
  open() {
    presenter.reconnected();
    const token = query.get("token");
    link.send({ type: "hello", protocol: PROTOCOL, screen: asked, frames, ...(token ? { token } : {}) });
    sync.start();
  },
  message(data) {
    if (typeof data === "string") {
      const message = parse(data);
      if (message) obey(message);
      return;
    }
    const frame = parseFrame(data);
    if (frame) presenter.add(frame.header, frame.picture);
  },
  lost: () => sync.stop(),
});
const sync = new Sync(clock, (t0) => link.send({ type: "sync", t0 }, { answered: true }));
const report = new Report((message) => link.send(message));

// ----------------------------------------------------------------- state

const frames = query.get("frames") === "url" ? "url" : "binary";
/** The name that this screen wants, whatever the server calls it while another has that. */
const asked = ownName();
let name = asked;
/** @type {string | null} */
let route = null;
/** When the screening that is on began, by the server's clock. @type {number | null} */
let began = null;
/** Until when a jump of the clock is put down to this machine's sleep, in local seconds. */
let drowsy = -1;
/** @type {object[]} */
const outbox = [];
/** Of the characters that were last measured, those for which there is no font here. @type {Promise<string[]> | null} */
let lacking = null;
let measured = "";

/** The name by which the server knows this screen: from the address, else one that this browser keeps. */
function ownName() {
  const given = query.get("screen")?.trim().slice(0, 64);
  if (given) return given;
  const key = "understudy.screen";
  try {
    const kept = localStorage.getItem(key);
    if (kept) return kept;
    const made = `screen-${Math.random().toString(36).slice(2, 6)}`;
    localStorage.setItem(key, made);
    return made;
  } catch {
    return "screen"; // storage is forbidden here
  }
}

// ----------------------------------------------------------------- what the server says

/**
 * What stands on the stage until another message of its type comes: what is done with one as it is told, or found in
 * the snapshot (rejoined), and where the snapshot has none.
 * @type {Record<string, {take: (message: any, rejoined?: boolean) => void, none?: (settings: import("./messages.js").DisplaySettings) => void}>}
 */
const STANDING = {
  scene: { take: scene },
  fade: { take: (message) => curtain.take(message), none: ({ fade }) => curtain.open(fade ?? 1) },
  slider: { take: (message) => slider.take(message) },
  typing: { take: (message) => typed.take(message), none: () => typed.clear() },
  caption: { take: (message) => captions.take(message) },
};

/** @param {import("./messages.js").Message} message */
function obey(message) {
  switch (message.type) {
    case "sync":
      return sync.answered(message);
    case "frame":
      return presenter.add(message, null);
    case "run":
      return presenter.begin(message.run);
    case "run_end":
      return ended(message);
    case "hold":
      presenter.halt();
      return progress.leave();
    case "screening":
      return screening(message);
    case "identify":
      name = message.screen || name; // it may have become free meanwhile
      return identify.show(name);
    case "reload":
      return void reload();
    case "error":
      return console.warn(`the server did not take a message: ${message.code}: ${message.message}`);
    case "welcome":
      return welcome(message);
    default:
      return STANDING[message.type].take(message);
  }
}

/** @param {import("./messages.js").Welcome} message */
function welcome({ screen, server_time, show, display: settings, snapshot }) {
  mark.show(show.rehearsal);
  clock.anchor(server_time);
  name = screen;
  if (show.title) document.title = show.title;
  captions.enabled = settings.captions !== false;
  picture.crossfade = settings.crossfade;
  progress.dress(settings);
  lobby.dress(show, settings);
  for (const message of outbox.splice(0)) link.send(message);

  screening(snapshot.screening);
  for (const [type, { take, none }] of Object.entries(STANDING)) {
    const message = snapshot[/** @type {keyof import("./messages.js").Snapshot} */ (type)];
    if (message) take(message, true);
    else none?.(settings);
  }
  // A server that knows of no run has nothing against the one that is still playing here.
  if (snapshot.run) presenter.begin(snapshot.run.run);
  if (snapshot.frame) newest(snapshot.frame);
  else if (snapshot.picture) hang(snapshot.picture);
  if (!captions.enabled) captions.clear();
  document.body.dataset.welcome = "";
  measure(show.characters ?? "");
}

/** Tell which characters of the show cannot be drawn here. @param {string} characters */
async function measure(characters) {
  if (!characters) return;
  if (lacking === null || characters !== measured) {
    // The first time, or a server that plays another show by now.
    const families = ["captions", "typing"].map((id) => getComputedStyle(element(id)).fontFamily);
    measured = characters;
    lacking = glyphs.missing(characters, families);
  }
  const found = await lacking;
  if (characters === measured && found.length > 0) link.send(glyphs.report(found));
}

/**
 * The frame that should be on the wall now. It follows in binary; should it not, it can be fetched.
 * @param {import("./messages.js").FrameHeader} header
 */
function newest(header) {
  const there = () => presenter.shown?.run === header.run && presenter.shown.step >= header.step;
  if (there()) return;
  if (frames === "url") presenter.add(header, null);
  else if (header.url) setTimeout(() => !there() && presenter.run === header.run && presenter.add(header, null), 2500);
}

/**
 * What the other walls show, where this one is empty: the end of a run before, until the current one has a frame.
 * @param {import("./messages.js").FrameHeader} header
 */
async function hang({ url }) {
  if (!url || picture.any) return;
  try {
    const answer = await fetch(here(url));
    if (!answer.ok) return;
    const source = await answer.blob();
    const bitmap = await createImageBitmap(source);
    if (!picture.any && document.body.dataset.screening === "active") {
      wall.dataset.begun = "";
      picture.fade(bitmap, source, picture.crossfade);
    }
    bitmap.close();
  } catch {
    // Then the wall waits for the next frame.
  }
}

/** @param {import("./messages.js").RunEnd} message */
function ended({ run, outcome }) {
  if (run !== presenter.run) return;
  // Cut: nothing more is to be seen of it. Otherwise what has come plays to its end.
  if (outcome === "cut") presenter.halt();
  if (outcome !== "completed") progress.leave();
}

/** @param {import("./messages.js").Screening} message */
function screening(message) {
  const { started_at } = message;
  // A server that was restarted computes the same start anew, to some milliseconds.
  if (started_at !== null && began !== null && Math.abs(started_at - began) > 2) {
    typed.clear();
    slider.clear();
    captions.clear();
  }
  if (started_at !== null) began = started_at;
  lobby.take(message);
}

/**
 * @param {import("./messages.js").Scene} message
 * @param {boolean} [rejoined] found there, and not told just now
 */
function scene({ route: to }, rejoined = false) {
  if (!rejoined || (route !== null && route !== to)) {
    typed.clear();
    slider.clear();
  }
  route = to;
  document.body.dataset.route = to;
}

/** Load the page anew, if it can be had: a browser's error page must never be on the wall. */
async function reload() {
  const key = "understudy.reloaded";
  try {
    // A clock that was set back meanwhile must not keep it from ever loading anew.
    if (Math.abs(Date.now() - Number(sessionStorage.getItem(key))) < RELOAD * 1000) return;
    sessionStorage.setItem(key, String(Date.now()));
  } catch {
    if (performance.now() < RELOAD * 1000) return;
  }
  try {
    const answer = await fetch(location.href, { cache: "reload" });
    if (answer.ok) location.reload();
  } catch {
    // The server is gone again: the page we have is the best there is.
  }
}

// ----------------------------------------------------------------- what happens here

for (const event of ["online", "pageshow", "focus"]) addEventListener(event, () => awake());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && awake());

function awake() {
  link.nudge();
  sync.one();
}

// Another server with another clock: what waits here keeps its moment. After our own sleep it is simply late.
clock.onstep = (/** @type {number} */ seconds) => {
  if (clock.local() > drowsy) presenter.shift(seconds);
};

// A machine that slept finds its steady clock behind the time of day, or its timers late.
let steady = performance.now();
let date = Date.now();
setInterval(() => {
  const away = Math.max(performance.now() - steady, Date.now() - date);
  steady = performance.now();
  date = Date.now();
  if (away < 5000) return;
  drowsy = clock.local() + 15;
  clock.forget();
  awake();
}, 1000);

Object.defineProperty(window, "understudy", {
  value: Object.freeze({
    /** What a test or a benchmark wants to know; a copy, free to keep. */
    stats: () => ({
      screen: name,
      now: clock.known ? clock.now() : null,
      clock: clock.stats(),
      link: link.stats(),
      display: { interval: display.interval, hz: 1 / display.interval, latency: display.latency },
      picture: picture.stats(),
      screening: document.body.dataset.screening ?? null,
      route,
      ...presenter.stats(),
    }),
  }),
});

report.listen();
behave();
display.measure();
link.connect();
