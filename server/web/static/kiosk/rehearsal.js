// @ts-check
/**
 * Says that this is no show: a striped frame around the wall and a band above it, over everything else that may be seen.
 * On a page that shows a show nothing of it exists.
 */

import { times } from "../shared/speed.js";

/** @typedef {{speed: number}} Rehearsal */

export class RehearsalMark {
  /** @type {HTMLElement | null} */
  #root = null;

  /** @param {Rehearsal | null | undefined} rehearsal as the server last said; nothing where it plays the show */
  show(rehearsal) {
    if (!rehearsal) {
      this.#root?.remove();
      this.#root = null;
      return;
    }
    this.#root ??= this.#make();
    const [speed] = this.#root.getElementsByTagName("b");
    speed.textContent = times(rehearsal.speed);
  }

  #make() {
    const root = document.createElement("div");
    root.id = "rehearsal";
    root.setAttribute("role", "status");
    const words = document.createElement("p");
    words.append("Rehearsal ", document.createElement("b"), document.createElement("span"));
    /** @type {HTMLElement} */ (words.lastElementChild).textContent = " — nobody is watching";
    root.append(words);
    document.body.append(root);
    return root;
  }
}
