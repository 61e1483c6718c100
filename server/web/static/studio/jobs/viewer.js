// @ts-check
/** One picture, large. What is still being drawn is seen here, too, step by step. */

import { element, make, mark, say } from "../../shared/dom.js";
import { Picture } from "../picture.js";
import * as words from "../words.js";
import { finished, small } from "./card.js";
import { ratio } from "./sizes.js";

/** How far a finger goes for the next picture, in CSS pixels. */
const SWIPE = 50;

export class Viewer {
  #dialog = element("viewer");
  /** @type {string | null} */
  #job = null;
  #n = 0;
  /** @type {Picture | null} */
  #picture = null;
  #around;

  /**
   * @param {{get: (id: string) => import("../types.js").Job | undefined, step: (id: string, n: number) => import("../types.js").Step | undefined}} around
   */
  constructor(around) {
    this.#around = around;
    element("viewer-previous").addEventListener("click", () => this.#turn(-1));
    element("viewer-next").addEventListener("click", () => this.#turn(1));
    element("viewer-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => (this.#job = null));
    this.#dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) this.#turn(by);
    });
    let from = 0;
    const place = element("viewer-place");
    place.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => (from = event.clientX));
    place.addEventListener("pointerup", (/** @type {PointerEvent} */ event) => {
      const by = event.clientX - from;
      if (Math.abs(by) > SWIPE) this.#turn(by < 0 ? 1 : -1);
    });
  }

  /** @param {import("../types.js").Job} job @param {number} n */
  open(job, n) {
    this.#job = job.id;
    this.#put(n);
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#picture?.seen();
    this.update();
  }

  /** Something has changed: perhaps it is what is looked at. */
  update() {
    const job = this.#job ? this.#around.get(this.#job) : undefined;
    const item = job?.items.find((each) => each.n === this.#n);
    if (!job || !item) return;
    const step = this.#around.step(job.id, item.n);
    if (item.status === "ready") this.#picture?.want(finished(item));
    else if (step) this.#picture?.want(step.url);
    const stands = item.status === "failed" ? words.why(item.error) || "failed" : words.picture(item, step);
    say(element("viewer-prompt"), words.prompt(job));
    say(element("viewer-terms"), [`picture ${item.n + 1} of ${job.total}`, words.terms(job), stands].filter(Boolean).join(" · "));
    element("viewer-place").style.setProperty("--ratio", String(ratio(job)));
    say(element("viewer-words"), item.status === "ready" || step ? "" : stands);
    mark(this.#dialog, "status", item.status);
    element("viewer-previous").disabled = item.n === 0;
    element("viewer-next").disabled = item.n >= job.items.length - 1;
  }

  /** @param {number} by */
  #turn(by) {
    const job = this.#job ? this.#around.get(this.#job) : undefined;
    const to = this.#n + by;
    if (!job || to < 0 || to >= job.items.length) return;
    this.#put(to);
    this.#picture?.seen();
    this.update();
  }

  /** @param {number} n */
  #put(n) {
    this.#n = n;
    const frame = make("span", { className: "frame" });
    this.#picture = new Picture(frame);
    element("viewer-picture").replaceChildren(frame);
    const item = this.#job ? this.#around.get(this.#job)?.items.find((each) => each.n === n) : undefined;
    if (item?.status === "ready") this.#picture.want(small(item)); // it is here already, and seen until the large one is
  }
}
