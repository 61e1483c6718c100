// @ts-check
/** How far the picture is: a hairline along its foot and a small count, each only where the show wants it. */

/** Seconds they stay after the final image. */
const STAY = 2.2;

export class Progress {
  #root;
  #line;
  #badge;
  #timer = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#line = /** @type {HTMLElement} */ (root.querySelector(".line"));
    this.#badge = /** @type {HTMLElement} */ (root.querySelector(".badge"));
  }

  /** @param {{progress: boolean, badge: boolean}} wanted */
  dress({ progress, badge }) {
    this.#root.toggleAttribute("data-line", progress);
    this.#root.toggleAttribute("data-badge", badge);
  }

  /** @param {{step: number, steps: number, final: boolean}} header of what is on the wall now */
  step({ step, steps, final }) {
    clearTimeout(this.#timer);
    const share = final ? 1 : Math.min(1, step / Math.max(1, steps));
    const fresh = !this.#root.hasAttribute("data-on");
    // A new run starts from nothing: without a way back from where the one before had ended.
    if (fresh || share < Number(this.#line.dataset.share ?? 0)) {
      this.#line.style.transition = "none";
      this.#line.style.transform = "scaleX(0)";
      void this.#line.offsetWidth;
      this.#line.style.transition = "";
    }
    this.#line.dataset.share = String(share);
    this.#line.style.transform = `scaleX(${share})`;
    this.#badge.replaceChildren(...counter(step, steps));
    this.#root.setAttribute("data-on", "");
    if (final) this.#timer = setTimeout(() => this.leave(), STAY * 1000);
  }

  leave() {
    clearTimeout(this.#timer);
    this.#root.removeAttribute("data-on");
  }
}

/**
 * @param {number} step
 * @param {number} steps
 */
function counter(step, steps) {
  const now = document.createElement("span");
  now.className = "now";
  now.textContent = String(step).padStart(String(steps).length, "\u2007");
  const all = document.createElement("span");
  all.className = "all";
  all.textContent = String(steps);
  return [now, all];
}
