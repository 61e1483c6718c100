// @ts-check
/** What is on the wall now, and what comes next. The picture is the server's newest frame that is due; no screen is asked. */

import { here } from "../shared/address.js";
import { element, mark, say } from "../shared/dom.js";
import * as words from "./words.js";

export class Wall {
  #front = /** @type {HTMLImageElement} */ (element("picture-a"));
  #back = /** @type {HTMLImageElement} */ (element("picture-b"));
  #root = element("wall");
  /** The address that is shown, and the one that is wanted. @type {string | null} */
  #shown = null;
  /** @type {string | null} */
  #wanted = null;
  #loading = false;

  /** @param {import("./connection.js").ServerConnection} server */
  show(server) {
    const { state } = server;
    const { wall } = state;
    this.#want(wall.picture);
    const over = state.panic ? "black: panic" : wall.black ? "faded to black" : wall.lobby ? "lobby: no screening is on" : !wall.picture ? "no picture yet" : "";
    mark(this.#root, "over", over ? (state.panic || wall.black ? "black" : "lobby") : null);
    say(element("over"), over);
    say(element("caption"), wall.caption);
    const { now } = state;
    const { style } = element("steps").firstElementChild;
    style.transform = `scaleX(${now && now.steps ? now.step / now.steps : 0})`;
    if (!now) say(element("now"), "nothing has been drawn yet");
    else {
      const done = now.outcome === "completed" ? "finished" : now.outcome === "held" ? "broke off, held" : now.outcome === "cut" ? "cut" : now.step ? `step ${now.step} of ${now.steps}` : `begins, ${now.steps} steps`;
      const drawing = now.provider === "hold" ? "" : ` · ${done}`;
      say(element("now"), `${now.cue} · ${words.source(now)}${drawing}`);
    }
    element("picture").setAttribute("aria-label", now ? `Picture of ${now.prompt}` : "No picture");
  }

  /** One picture at a time, always the newest: a thin line must not fall behind. @param {string | null} address */
  #want(address) {
    this.#wanted = address;
    if (this.#loading || address === this.#shown) return;
    if (address === null) {
      this.#shown = null;
      mark(this.#front, "on", null);
      return;
    }
    this.#loading = true;
    const image = this.#back;
    image.src = here(address);
    image
      .decode()
      .then(() => {
        mark(image, "on", "");
        mark(this.#front, "on", null);
        [this.#front, this.#back] = [image, this.#front];
      })
      .catch(() => {}) // it was on stage a moment ago, and is no more
      .finally(() => {
        this.#shown = address;
        this.#loading = false;
        if (this.#wanted !== address) this.#want(this.#wanted);
      });
  }

  /** @param {import("./connection.js").ServerConnection} server */
  tick(server) {
    const { state } = server;
    const at = server.position();
    const { screening, standby } = state;
    say(element("clock"), at !== null ? words.position(at) : "--:--:--");
    const next = standby && at !== null && !screening.paused ? words.countdown(standby.at - at) : "";
    if (at === null && screening.next !== null) {
      const left = screening.next - server.now();
      const when = screening.next_local ? `${words.nextAt(screening.next_local, left)}, ` : "";
      say(element("countdown"), `screening ${when}in ${words.countdown(left)}`);
    }
    else say(element("countdown"), standby && standby.at - (at ?? 0) < -1 ? "by hand" : next && next !== "now" ? `in ${next}` : next);
  }

  /** @param {import("./connection.js").ServerConnection} server */
  next(server) {
    const { standby } = server.state;
    const ready = element("next-ready");
    mark(element("next"), "empty", standby ? null : "");
    if (!standby) {
      say(element("next-cue"), "no cue is left to fire");
      say(element("next-text"), "");
      say(ready, "");
      return;
    }
    say(element("next-cue"), `${standby.time} · ${standby.cue ?? words.kind(standby)}${standby.program ? ` · ${standby.program}` : ""}`);
    say(element("next-text"), words.said(standby));
    say(ready, !standby.ready ? "not ready: holds the picture" : standby.provider ? `ready: ${standby.provider}${standby.sets ? `, ${standby.sets} sets` : ""}` : "");
    mark(ready, "state", standby.ready ? "ready" : "missing");
  }
}
