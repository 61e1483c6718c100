// @ts-check
/** The mode: which it is, who decided so and why, until when; and one tap to decide otherwise. */

import { element, mark, say } from "../shared/dom.js";
import * as words from "./words.js";

export class Mode {
  #root = element("mode");
  /** @type {HTMLButtonElement[]} */
  #buttons = [...document.querySelectorAll("#mode-buttons button")].map((b) => /** @type {HTMLButtonElement} */ (b));

  /** @param {(command: string, args: any) => void} act */
  constructor(act) {
    for (const button of this.#buttons) {
      button.addEventListener("click", () => {
        const until = element("mode-until").value;
        const reason = element("mode-reason").value.trim();
        act("mode.force", {
          mode: button.dataset.mode,
          until: /^\d+$/.test(until) ? Number(until) : until,
          ...(reason ? { reason } : {}),
          ...(element("mode-now").checked ? { now: true } : {}),
        });
      });
    }
  }

  /** @param {import("./types.js").ModeState} mode */
  show(mode) {
    mark(this.#root, "forced", mode.forced ? "" : null);
    say(element("mode-effective"), mode.effective);
    // The reason of a force tells by whom it is already.
    const told = mode.forced && mode.reason.startsWith("forced");
    const by = told ? "" : `forced by ${words.who(mode.by)} `;
    const forced = mode.forced ? `${by}${words.until(mode.until)}` : "";
    const differs = !mode.forced && mode.configured !== mode.effective ? `configured ${mode.configured}` : "";
    say(element("mode-why"), (told ? [mode.reason, forced] : [forced, differs, mode.reason]).filter(Boolean).join(" · ") || "as configured");
    for (const button of this.#buttons) {
      const on = button.dataset.mode === mode.effective;
      mark(button, "on", on ? (mode.forced ? "forced" : "") : null);
      button.setAttribute("aria-pressed", String(on));
    }
    element("mode-release").hidden = !mode.forced;
    say(element("mode-release"), `Release: back to ${mode.configured}`);
  }
}
