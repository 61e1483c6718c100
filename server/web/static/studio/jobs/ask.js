// @ts-check
/**
 * The ask box: words, how they are drawn, and what that would take. A press is one job, however often its button is hit
 * and however often it must be sent: it carries a key, and the key stays until the Studio has answered.
 */

import { element, mark, say } from "../../shared/dom.js";
import * as words from "../words.js";
import { remember } from "./sizes.js";

/** Milliseconds without typing after which an estimate is asked for. */
const SETTLED = 350;
const FIELDS = ["prompt", "program", "style", "n", "speed", "seed"];

/** @typedef {{get: (key: string) => string | null, set: (key: string, value: string) => void}} Kept */

export class Ask {
  #connection;
  #asked;
  #tell;
  #kept;
  /** @type {import("../types.js").Program[]} */
  #programs = [];
  #timer = 0;
  #estimates = 0;
  #sending = false;
  /** The key of what was sent and not answered, with what that was. @type {{body: string, key: string} | null} */
  #open = null;

  /**
   * @param {import("../connection.js").StudioConnection} connection
   * @param {{asked: (job: import("../types.js").Job) => void, tell: (text: string, how: "ok" | "no") => void, kept: Kept}} around
   */
  constructor(connection, { asked, tell, kept }) {
    this.#connection = connection;
    this.#asked = asked;
    this.#tell = tell;
    this.#kept = kept;
    element("ask").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.send();
    });
    // The second click of a double click is the first one's.
    element("draw").addEventListener("click", (/** @type {MouseEvent} */ event) => event.detail > 1 && event.preventDefault());
    element("ask").addEventListener("input", () => this.#edited());
    this.#restore();
    this.#permit();
  }

  /** What the show offers. */
  async offer() {
    try {
      const [{ programs }, { styles }] = await Promise.all([this.#connection.ask("GET", "/api/programs"), this.#connection.ask("GET", "/api/styles")]);
      this.#programs = programs;
      remember(programs);
      const fromWords = programs.filter((/** @type {import("../types.js").Program} */ each) => !each.image_to_image); // the others want a picture to begin with
      this.#fill("program", fromWords.map((/** @type {import("../types.js").Program} */ each) => ({ value: each.name, text: `${each.name} · ${each.width}×${each.height}` })));
      this.#fill("style", [
        { value: "", text: "none" },
        ...styles.map((/** @type {import("../types.js").Style} */ each) => ({ value: each.name, text: each.name, title: each.words })),
      ]);
      this.#edited();
    } catch {
      // told by the line, and asked for again when it is back
    }
  }

  /** Put somebody's words into the box, to be changed. @param {import("../types.js").Job} job */
  reuse(job) {
    const { prompt, program, style, speed } = job.request ?? {};
    element("ask-prompt").value = prompt ?? "";
    if (program) element("ask-program").value = program;
    element("ask-style").value = style ?? "";
    element("ask-speed").value = speed ?? "full";
    element("ask-n").value = String(Math.min(4, Math.max(1, job.total)));
    element("ask-seed").value = "";
    this.#edited();
    element("ask-prompt").focus();
  }

  /** Have it estimated soon: something else is asked for, or how long it takes is known better. */
  reckon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#estimate(), SETTLED);
  }

  async send() {
    if (this.#sending || element("draw").disabled) return;
    const body = this.#body();
    const written = JSON.stringify(body);
    if (this.#open?.body !== written) this.#open = { body: written, key: key() };
    this.#sending = true;
    this.#complain([]);
    this.#permit();
    try {
      const job = await this.#connection.ask("POST", "/api/jobs", body, { "idempotency-key": this.#open.key });
      this.#open = null;
      this.#tell(`Asked for ${words.pictures(job.total)}`, "ok");
      this.#asked(job);
    } catch (problem) {
      const { code, message, problems } = /** @type {import("../connection.js").Refusal} */ (problem);
      if (code === "offline") return this.#tell("The Studio does not answer. Press Draw again: it is one job all the same.", "no");
      this.#open = null;
      if (code === "unauthorized") return;
      if (!this.#complain(problems)) this.#tell(`Not asked for: ${message}`, "no");
    } finally {
      this.#sending = false;
      this.#permit();
    }
  }

  /** What is asked for, as the Studio wants it. */
  #body() {
    const value = (/** @type {string} */ name) => element(`ask-${name}`).value.trim();
    return {
      kind: "draw",
      prompt: value("prompt"),
      ...(value("program") ? { program: value("program") } : {}),
      ...(value("style") ? { style: value("style") } : {}),
      n: Number(value("n")),
      ...(value("speed") === "fast" ? { speed: "fast" } : {}),
      ...(value("seed") ? { seed: Number(value("seed")) } : {}),
    };
  }

  #edited() {
    const program = this.#programs.find((each) => each.name === element("ask-program").value);
    const fast = program?.fast ?? false;
    element("ask-speed").closest("label").hidden = !fast;
    if (!fast) element("ask-speed").value = "full";
    this.#kept.set("ask", JSON.stringify(Object.fromEntries(FIELDS.map((name) => [name, element(`ask-${name}`).value]))));
    this.#complain([]);
    this.#permit();
    this.reckon();
  }

  async #estimate() {
    const mine = (this.#estimates += 1);
    const body = this.#body();
    if (!body.prompt || !element("ask").checkValidity()) return say(element("ask-estimate"), "");
    try {
      const told = await this.#connection.ask("POST", "/api/estimate", body);
      if (mine === this.#estimates) say(element("ask-estimate"), words.estimate(told, body.n));
    } catch {
      if (mine === this.#estimates) say(element("ask-estimate"), ""); // what is wrong is told when it is asked for
    }
  }

  #permit() {
    element("draw").disabled = this.#sending || !element("ask-prompt").value.trim();
    mark(element("draw"), "pending", this.#sending ? "" : null);
    say(element("draw").querySelector("b"), this.#sending ? "Asking …" : "Draw");
  }

  /**
   * Say what is wrong where it is.
   * @param {import("../types.js").Problem[]} problems
   * @returns {boolean} whether all of it has found its field
   */
  #complain(problems) {
    let all = problems.length > 0;
    /** @type {HTMLElement | null} */
    let first = null;
    for (const name of FIELDS) {
      const mine = problems.filter((each) => (each.field ?? "").split(/[.[]/)[0] === name);
      const field = element(`ask-${name}`);
      if (mine.length) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
      const place = element(`ask-${name}-problem`);
      place.hidden = !mine.length;
      say(place, mine.map((each) => each.message).join("; "));
      if (mine.length) first ??= field;
    }
    for (const each of problems) all &&= FIELDS.includes((each.field ?? "").split(/[.[]/)[0] ?? "");
    first?.focus();
    return all;
  }

  /** @param {string} name @param {{value: string, text: string, title?: string}[]} options */
  #fill(name, options) {
    const field = element(`ask-${name}`);
    const chosen = field.value || this.#draft()[name] || "";
    field.replaceChildren(...options.map(({ value, text, title }) => Object.assign(new Option(text, value), { title: title ?? "" })));
    if (options.some(({ value }) => value === chosen)) field.value = chosen;
  }

  /** @returns {Record<string, string>} */
  #draft() {
    try {
      return JSON.parse(this.#kept.get("ask") ?? "{}");
    } catch {
      return {};
    }
  }

  #restore() {
    const draft = this.#draft();
    for (const name of ["prompt", "n", "speed", "seed"]) if (draft[name]) element(`ask-${name}`).value = draft[name];
  }
}

/** Another one each time. */
function key() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
