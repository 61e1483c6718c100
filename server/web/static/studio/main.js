// @ts-check
/** The Studio's page: what stands around every page of it. What is shown is what the Studio says, and nothing else. */

import { element, make, mark, say } from "../shared/dom.js";
import { StudioConnection } from "./connection.js";
import { JobsPage } from "./jobs/page.js";
import { Keys } from "./keys.js";
import { Picture } from "./picture.js";
import * as words from "./words.js";

/** The pages that there are, in their order. */
const PAGES = [{ name: "jobs", title: "Jobs" }];
/** Milliseconds between two questions whether the Studio is still there. */
const PULSE = 5000;

// ----------------------------------------------------------------- what is kept in this browser

const kept = {
  /** @param {string} key */
  get(key) {
    try {
      return sessionStorage.getItem(`understudy.studio.${key}`) ?? localStorage.getItem(`understudy.studio.${key}`);
    } catch {
      return null; // storage is forbidden here
    }
  },
  /** @param {string} key @param {string} value @param {Storage} [where] */
  set(key, value, where = sessionStorage) {
    try {
      where.setItem(`understudy.studio.${key}`, value);
    } catch {
      // then it is asked for again
    }
  },
  /** @param {string} key */
  forget(key) {
    try {
      sessionStorage.removeItem(`understudy.studio.${key}`);
      localStorage.removeItem(`understudy.studio.${key}`);
    } catch {
      // nothing is kept here
    }
  },
};
/** @type {string | null} */
let token = kept.get("token") || null;

// ----------------------------------------------------------------- what is said at the foot

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

// ----------------------------------------------------------------- parts

const connection = new StudioConnection({
  token: () => token,
  welcomed: () => void jobs.welcomed(),
  reset: () => jobs.reset(),
  happened: (happening) => jobs.happened(happening),
  step: (step) => jobs.step(step),
  queue: (queue) => jobs.told(queue),
  changed: show,
  refused,
});
const jobs = new JobsPage(connection, { tell, changed: show, kept });
const keys = new Keys();
keys.add("Everywhere", [{ key: "?", shown: "?", does: "All keys", act: openHelp }]);
keys.add("Jobs", jobs.keys);

const LINES = {
  connecting: "Connecting …",
  connected: "Connected",
  lost: "The Studio cannot be reached; trying again",
  refused: "A token is needed",
};

function show() {
  const { line, member, why } = connection;
  mark(document.body, "line", line);
  say(element("line-words"), line === "lost" && why ? `The Studio does not let this page in: ${why}; trying again` : LINES[line]);
  say(element("who"), member ? member.name : "");
  const { queue } = jobs;
  say(element("queue"), queue && line !== "refused" ? words.queue(queue) : "");
  mark(element("queue"), "paused", queue?.paused ? "" : null);
  const running = queue?.running ?? 0;
  document.title = `${queue?.paused ? "Paused · " : running ? `${running} drawing · ` : ""}Studio`;
}

const [first] = PAGES;
element("pages-list").append(
  ...PAGES.map(({ name, title }) => make("li", {}, make("a", { href: `#${name}`, aria: name === first?.name ? { current: "page" } : {} }, title))),
);

// ----------------------------------------------------------------- doors

function refused() {
  const door = element("door");
  say(element("door-why"), token ? "This token is not one of this Studio’s (any more). Try another." : "This Studio wants a token. Whoever runs it makes you one: understudy studio member add NAME");
  token = null;
  kept.forget("token");
  show();
  if (!door.open) door.showModal();
}

element("door").addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());
element("door").addEventListener("close", () => {
  token = element("door-token").value.trim() || null;
  element("door-token").value = "";
  if (token) kept.set("token", token, element("door-keep").checked ? localStorage : sessionStorage);
  connection.connect();
});

function openHelp() {
  element("help-keys").replaceChildren(
    ...keys.groups.flatMap(({ title, keys: all }) => [
      make("h3", {}, title),
      make("dl", {}, ...all.flatMap(({ shown, does }) => [make("dt", {}, ...shown.split(" ").map((each) => make("kbd", {}, each))), make("dd", {}, does)])),
    ]),
  );
  element("help").showModal();
}
element("help-open").addEventListener("click", openHelp);

setInterval(() => document.visibilityState === "visible" && void connection.pulse(), PULSE);
Picture.token = () => token;
show();
connection.connect();
